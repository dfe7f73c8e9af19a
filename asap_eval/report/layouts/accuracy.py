"""Layout of benchmarks that measure accuracy."""

from __future__ import annotations

from asap_eval.report.layouts.columns import (
    BUDGET,
    CHANGE,
    FIRED,
    GMACS,
    IDEAL,
    KEPT,
    METHOD,
    SAMPLES,
    SETTINGS,
    Column,
    Row,
    number,
    numbers,
    present,
    speedup,
)


def _p(row: Row) -> str:
    p = row["mcnemar_p"]
    return "<0.001" if present(p) and p < 0.001 else number(p, "{:.3f}")


ACCURACY = [
    METHOD,
    SETTINGS,
    SAMPLES,
    Column("top-1 %", lambda row: number(row["top1"], "{:.2f}")),
    Column(
        "Δ [95 %]",
        lambda row: numbers(
            row, "{:+.2f} [{:+.2f}, {:+.2f}]", "delta_top1", "delta_low", "delta_high"
        ),
    ),
    Column("McNemar p", _p, wide=True),
    GMACS,
    CHANGE,
    KEPT,
    FIRED,
    Column(
        "img/s: fused / matched / method",
        lambda row: numbers(
            row, "{:.1f} / {:.1f} / {:.1f}", "fused_img_s", "matched_img_s", "method_img_s"
        ),
        wide=True,
    ),
    speedup("speed-up", "speedup"),
    IDEAL,
    BUDGET,
]
