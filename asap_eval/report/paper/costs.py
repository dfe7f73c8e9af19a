"""Columns beside the paper's figures that say what a row cost: work, tokens, speed."""

from __future__ import annotations

from asap_eval.report.layouts.columns import Row, number, present
from asap_eval.report.sheet import EMPTY, Cell, Head

COSTS = (
    (Head("unpruned", "GMACs", group="work"), "baseline_g", "{:.3f}"),
    (Head("model", "GMACs", group="work"), "mean_g", "{:.3f}"),
    (Head("method's own", "GMACs", group="work"), "method_g", "{:.3f}"),
    (Head("without its own", "%", group="work"), "reduction_model_pct", "{:+.1f}"),
    (Head("least", group="tokens kept"), "kept_min", "{:.0f}"),
    (Head("median", group="tokens kept"), "kept_median", "{:g}"),
    (Head("mean", group="tokens kept"), "kept_mean", "{:.1f}"),
    (Head("most", group="tokens kept"), "kept_max", "{:.0f}"),
    (Head("mean of layers", group="tokens kept"), "layer_mean", "{:.1f}"),
    (Head("mean block", group="fired"), "fired_mean", "{:.2f}"),
    (Head("never", group="fired"), "fired_never", "{:.0f}"),
    (Head("unpruned, fused", "img/s", group="speed"), "fused_img_s", "{:.1f}"),
    (Head("unpruned, same kernel", "img/s", group="speed"), "matched_img_s", "{:.1f}"),
    (Head("method", "img/s", group="speed"), "method_img_s", "{:.1f}"),
    (Head("share of ideal", group="speed"), "share_of_ideal", "{:.3f}"),
)
"""Head, column of the frame, format."""

OF_A_METHOD = {"fired_mean", "fired_never"}
"""Columns that mean nothing for the unpruned model."""


def cost_cells(row: Row) -> list[Cell]:
    """Cells of `COSTS`, from a line of an experiment."""
    cells = []
    for _, name, form in COSTS:
        value = row[name]
        if not present(value) or (row["method"] == "none" and name in OF_A_METHOD):
            cells.append(EMPTY)
        else:
            cells.append(Cell(number(value, form), float(value)))
    return cells
