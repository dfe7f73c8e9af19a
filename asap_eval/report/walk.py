"""Layout of ``bench=walk``: one line for a walk; its blocks are in the record's ``analysis``."""

from __future__ import annotations

from asap_eval.report.columns import SAMPLES, Column, Row, number, numbers, present
from asap_eval.report.render import DASH

FIRST = "analysis.at_firing.0"

WALK_FIELDS = {
    "walk_tau": f"{FIRST}.tau",
    "walk_fired": f"{FIRST}.fired.mean",
    "walk_never": f"{FIRST}.fired.never",
    "walk_rho": f"{FIRST}.spearman.q50",
    "walk_rho_q5": f"{FIRST}.spearman.q5",
    "walk_border_cls": f"{FIRST}.border.cls",
    "walk_border_heaviest": f"{FIRST}.border.heaviest",
    "walk_ring": "analysis.border.base_rate",
    "walk_peak_first": "analysis.sink_emergence.peak.0.mean",
    "walk_peak_last": "analysis.sink_emergence.peak.-1.mean",
    "walk_falls_cls": "analysis.appendix_b.cls.falls_all",
    "walk_falls_heaviest": "analysis.appendix_b.heaviest.falls_all",
    "walk_shrinks": "analysis.distances.shrinks_all",
}
"""Columns of the frame that only these records fill: where a record holds them."""


def _fired(row: Row) -> str:
    if not present(row["walk_tau"]):
        return DASH
    block = number(row["walk_fired"], "{:.2f}")
    return f"{block} ({row['walk_never']:.0f}) at tau={row['walk_tau']:g}"


def _percent(row: Row, *names: str) -> str:
    """Shares in percent; a dash for a reading that this model has not."""
    shares = [100 * row[name] if present(row[name]) else None for name in names]
    return (
        " / ".join(number(share, "{:.0f}") for share in shares)
        if any(map(present, shares))
        else DASH
    )


WALK = [
    Column("walk", lambda row: row["method"]),
    SAMPLES,
    Column(
        "heaviest patch: first → last block",
        lambda row: numbers(row, "{:.2f} → {:.2f}", "walk_peak_first", "walk_peak_last"),
    ),
    Column("fired at block (never)", _fired),
    Column(
        "rho there: median (5 %)",
        lambda row: numbers(row, "{:.3f} ({:.3f})", "walk_rho", "walk_rho_q5"),
    ),
    Column(
        "sink at the border there %: cls / heaviest / ring",
        lambda row: _percent(row, "walk_border_cls", "walk_border_heaviest", "walk_ring"),
    ),
    Column(
        "steps in which the sink gets lighter %: cls / heaviest",
        lambda row: _percent(row, "walk_falls_cls", "walk_falls_heaviest"),
    ),
    Column("steps in which distances shrink %", lambda row: _percent(row, "walk_shrinks")),
]
