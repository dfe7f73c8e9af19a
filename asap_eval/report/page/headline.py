"""What the records say of the paper: sentences made from verdicts and figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from asap_eval.record import RunRecord
from asap_eval.report.experiment.verdict import DIFFERS, JUDGED, REPRODUCED, word_of
from asap_eval.report.frame import frame
from asap_eval.report.layouts.columns import Row, name_of, present
from asap_eval.report.paper.claims import Verdict

Tone = Literal["agrees", "differs", "mixed", "open", "best", "level", "worst", "failed"]
"""Of a sentence, the first four about the paper: for its mark, which never stands without words."""
TONES: dict[str, Tone] = {REPRODUCED: "agrees", DIFFERS: "differs"}
"""Of rows with one verdict that tells; rows that cannot tell say nothing."""

UNITS = {"kinetics": "clips", "saliency": "photographs", "vlm": "questions"}
"""What a sample is, where it is no image."""


@dataclass(frozen=True)
class Sentence:
    """One finding.

    Attributes:
        tone: what kind of finding. text: the finding. details: its parts, one a line.
    """

    tone: Tone
    text: str
    details: tuple[str, ...] = ()


def of_table(paper: str, lines: Sequence[Row]) -> list[Sentence]:
    """What the rows of one experiment on one model say of their published figures.

    Args:
        paper: which table of the paper. lines: of `experiment_frame`.
    """
    said: list[Sentence] = []
    judged = [line for line in lines if word_of(line["verdict"]) in JUDGED]
    if judged:
        told = {word_of(line["verdict"]) for line in judged} & TONES.keys()
        tone: Tone = "mixed" if len(told) > 1 else TONES[told.pop()] if told else "open"
        first = judged[0]
        unit = UNITS.get(str(first["bench"]), "images")
        where = f"{paper} on {first['model']}, {first['n']:.0f} {unit}"
        ordered = sorted(
            judged, key=lambda line: (JUDGED.index(word_of(line["verdict"])), -abs(_gap(line)))
        )
        text = f"{where}, {count(len(judged), 'row')} with a published figure: {_apart(judged)}."
        said.append(Sentence(tone, text, tuple(map(_against, ordered))))
    return said


def of_claims(model: str, verdicts: Iterable[Verdict]) -> list[Sentence]:
    """How the claims about the walk fared on one model; nothing where none could be decided."""
    judged = [v for v in verdicts if v.n is not None]
    if not judged:
        return []
    count = Counter(v.verdict for v in judged)
    parts = [f"{count[word]} {word}" for word in sorted(count, key=lambda w: (-count[w], w))]
    tone: Tone = "mixed"
    if len(count) == 1 and "supported" in count:
        tone = "agrees"
    elif "supported" not in count:
        tone = "differs"
    text = f"Of {len(judged)} claims about the walk decided on {model}: {', '.join(parts)}."
    lines = tuple(f"{v.claim}: {v.verdict} — {v.measured}" for v in judged)
    return [Sentence(tone, text, lines)]


def of_saliency(records: Sequence[RunRecord]) -> list[Sentence]:
    """Which methods tell foreground from background, on each model and set of photographs."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    done = [r for r in records if r.status == "done" and r.job.bench == "saliency" and r.analysis]
    for row in frame(done).to_dict("records") if done else []:
        j = json.loads(row["analysis"]).get("youden_j")
        if present(j) and row["method"] != "none":
            place = (row["model"], f"{row['n']:.0f} photographs")
            found.setdefault(place, []).append((j, f"J = {j:+.2f}, {name_of(row)}"))
    said = []
    for (model, where), rows in sorted(found.items()):
        ordered = sorted(rows, key=lambda row: (-row[0], row[1]))
        best = ordered[0][1]
        text = (
            f"Telling foreground from background ({model}, {where}; 0 is chance): best is {best}."
        )
        said.append(Sentence("open", text, tuple(line for _, line in ordered)))
    return said


def _apart(judged: Sequence[Row]) -> str:
    """How many rows of which methods got each verdict."""
    parts = []
    for word in JUDGED:
        rows = [line for line in judged if word_of(line["verdict"]) == word]
        names = ", ".join(dict.fromkeys(str(line["method"]) for line in rows))
        if rows:
            parts.append(f"{len(rows)} {word} ({names})")
    return ", ".join(parts)


def _gap(line: Row) -> float:
    return float(line["difference"]) if present(line["difference"]) else 0.0


def _against(line: Row) -> str:
    row = line["published_row"] or line["method"]
    return (
        f"{row} ({name_of(line)}): {line['delta_top1']:+.2f} points "
        f"[{line['delta_low']:+.2f}, {line['delta_high']:+.2f}], "
        f"published {line['published_change']:+.2f}: {word_of(line['verdict'])}"
    )


def count(n: int, noun: str) -> str:
    """A number with its noun."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
