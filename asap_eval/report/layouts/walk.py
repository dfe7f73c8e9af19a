"""Layout of ``bench=walk``: one line for a walk, and its blocks in a table below."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from asap_eval.report.layouts.columns import SAMPLES, Column, Row, number, part, present
from asap_eval.report.sheet import DASH, Head, Sheet, sheet_of_text

READINGS = ("cls", "heaviest")
"""Of the sink; a model without a class token has the second alone."""


def _peaks(row: Row) -> str:
    found = part(row, "analysis")
    if not found:
        return DASH
    first, last = (found["sink_emergence"]["peak"][at]["mean"] for at in (0, -1))
    return f"{first:.2f} → {last:.2f}"


def _fired(row: Row) -> str:
    found = part(row, "analysis")
    if not found:
        return DASH
    first = found["at_firing"][0]
    block = number(first["fired"]["mean"], "{:.2f}")
    return f"{block} ({first['fired']['never']}) at tau={first['tau']:g}"


def _rho(row: Row) -> str:
    found = part(row, "analysis")
    if not found or not found["at_firing"][0]["spearman"]["n"]:
        return DASH
    rho = found["at_firing"][0]["spearman"]
    return f"{rho['q50']:.3f} ({rho['q5']:.3f})"


def _border(row: Row) -> str:
    found = part(row, "analysis")
    if not found or not found["at_firing"][0]["border"]:
        return DASH
    there = found["at_firing"][0]["border"]
    return " / ".join(map(_percent, [*map(there.get, READINGS), found["border"]["base_rate"]]))


def _falls(row: Row) -> str:
    steps = part(row, "analysis").get("appendix_b", {})
    shares = [steps.get(reading, {}).get("falls_all") for reading in READINGS]
    return " / ".join(map(_percent, shares)) if any(map(present, shares)) else DASH


def _percent(share: float | None) -> str:
    """A share in percent; a dash where it is not defined."""
    return DASH if share is None else f"{100 * share:.1f}"


WALK = [
    Column("walk", lambda row: row["method"], "text"),
    replace(SAMPLES, kind="text"),
    Column("heaviest patch: first → last block", _peaks),
    Column("fired at block (never)", _fired),
    Column("rho there: median (5 %)", _rho),
    Column("sink at the border there %: cls / heaviest / ring", _border, wide=True),
    Column("steps in which the sink gets lighter %: cls / heaviest", _falls, wide=True),
    Column(
        "steps in which distances shrink %",
        lambda row: _percent(part(row, "analysis").get("distances", {}).get("shrinks_all")),
        wide=True,
    ),
]

BLOCKS = (
    "heaviest patch",
    Head("heaviest column", wide=True),
    "distance to the sink",
    "effective rank",
    "rho",
    Head("border %: cls", wide=True),
    "border %: heaviest",
    Head("falls %: cls", wide=True),
    "falls %: heaviest",
)


def block_tables(title: str, rows: list[Row]) -> list[Sheet]:
    """What the walk does block by block: means over the images, shares in percent."""
    return [
        sheet_of_text(
            f"{title} · block by block",
            ["block"],
            [_block(found, at) for at in range(found["blocks"])],
            numbers=BLOCKS,
            notes=[f"the border ring is {_percent(found['border']['base_rate'])} % of the patches"],
        ).without_empty_columns()
        for found in (part(row, "analysis") for row in rows)
        if found
    ]


def _block(found: dict[str, Any], at: int) -> list[str]:
    """Cells of block ``at + 1``; a step belongs to the block that it leads into."""
    emergence, distances = found["sink_emergence"], found["distances"]

    def share(block: dict[str, Any], name: str, place: int) -> str:
        return _percent(block[name][place] if name in block and place >= 0 else None)

    return [
        str(at + 1),
        f"{emergence['peak'][at]['mean']:.2f}",
        f"{emergence['peak_with_prefix'][at]['mean']:.1f}",
        f"{distances['to_sink'][at]['mean']:.4f}",
        f"{distances['effective_rank'][at]['mean']:.1f}",
        number(found["spearman"][at]["mean"], "{:.3f}"),
        *(share(found["border"], reading, at) for reading in READINGS),
        *(share(found["appendix_b"].get(r, {}), "falls", at - 1) for r in READINGS),
    ]
