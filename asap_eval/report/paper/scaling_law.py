"""The scaling law of tokens and parameters: its points, our fit to them, and what of it holds."""

from __future__ import annotations

from asap_eval.audit.scaling_law import Law, fitted
from asap_eval.paper.scaling_law import (
    ALPHA,
    BETA,
    OCR_ALPHA,
    OCR_BETA,
    SOURCE,
    Point,
    points,
)
from asap_eval.report.experiment.verdict import DIFFERS, NOT_RUN, REPRODUCED
from asap_eval.report.sheet import DASH, Sheet, sheet_of_text

TEXT = 50
"""Tokens of text in the paper's plot of the best choice at a fixed cost."""

LARGE, FEW, ALL = 7.0, (64, 16), 576
"""Model and tokens whose loss is held beside training-free rows."""


def scaling_law() -> list[Sheet]:
    """The points with the fit in brackets, and a verdict on each printed figure."""
    law, known = fitted(points()), {(p.parameters, p.tokens): p for p in points()}
    sizes = sorted({size for size, _ in known})
    counts = sorted({count for _, count in known})
    rows = [[f"{size:g}", *(_cell(known[size, count], law) for count in counts)] for size in sizes]
    return [
        sheet_of_text(
            f"scaling law · mean score of nine tasks, % ({SOURCE})",
            ["parameters, 10^9"],
            rows,
            numbers=[f"{count} tokens" for count in counts],
            notes=["as printed (fitted)"],
        ),
        sheet_of_text(
            "scaling law · the fit",
            ["what", "paper says", "fit [95 %]", "verdict"],
            _verdicts(law, known),
            notes=[
                f"error = A / N^alpha / T^beta + d: A={law.scale:.3f}, d={law.floor:.3f}, sum of "
                f"squares {law.squares:.2e}; the intervals leave d open",
                "reproduced where the printed exponent lies in the interval of ours",
                "a method without training has to lose less than a trained model of as many tokens",
            ],
        ),
    ]


def _cell(point: Point, law: Law) -> str:
    return f"{100 * point.score:.2f} ({100 * (1 - law.error(point.parameters, point.tokens)):.2f})"


def _verdicts(law: Law, known: dict[tuple[float, int], Point]) -> list[list[str]]:
    exponents = (
        ("alpha, of parameters", ALPHA, law.alpha, law.alpha_ci95),
        ("beta, of tokens", BETA, law.beta, law.beta_ci95),
    )
    rows = [
        [
            name,
            f"{printed:g}",
            f"{value:.4f} [{ends[0]:.4f}, {ends[1]:.4f}]",
            REPRODUCED if ends[0] <= printed <= ends[1] else DIFFERS,
        ]
        for name, printed, value, ends in exponents
    ]
    rows.append(["alpha / beta", "about 5", f"{law.alpha / law.beta:.1f}", DASH])
    for text, said in ((0, "1"), (TEXT, "few")):
        best = law.best_tokens(text)
        rows.append(
            [f"best tokens at one cost, {text} of text", said, f"{best:.0f}", DASH],
        )
    for count in FEW:
        printed = 100 * (known[LARGE, ALL].score - known[LARGE, count].score)
        fit = 100 * (law.error(LARGE, count) - law.error(LARGE, ALL))
        what = f"points lost from {ALL} to {count} tokens at {LARGE:g} * 10^9"
        rows.append([what, f"{printed:.1f} (of its points)", f"{fit:.1f}", DASH])
    printed_ocr = f"alpha {OCR_ALPHA:g}, beta {OCR_BETA:g}"
    rows.append(["tasks that ask for text", printed_ocr, DASH, f"{NOT_RUN}: no points at hand"])
    return rows
