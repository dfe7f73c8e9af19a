"""Settings that do the same work, a row each: the change of top-1 with its interval."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from asap_eval.report.layouts.columns import number, numbers, present
from asap_eval.report.pictures.figure import Figure, finished, styled
from asap_eval.report.pictures.groups import Group, Line
from asap_eval.report.pictures.looks import is_control, look_of

APART = 2.0
"""Percentage points of MACs within which settings do the same work for a picture."""
INCH = 0.32
"""Height of a row."""


def one_budget(group: Group) -> bool:
    """Whether all settings but the unpruned model have one budget, or work within `APART`."""
    rows = [line.row for line in _pruned(group)]
    named = {(str(row["budget"]), str(row["target"])) for row in rows}
    if len(named) == 1 and present(rows[0]["target"]):
        return True
    works = [float(row["reduction_pct"]) for row in rows if present(row["reduction_pct"])]
    return bool(works) and max(works) - min(works) <= APART


def dots(group: Group, name: str) -> Figure:
    """The figure, its rows from the smallest loss to the largest."""
    lines = sorted(_pruned(group), key=lambda line: (-line.row["delta_top1"], line.label))
    whole = next(line for line in group.lines if line.row["method"] == "none")
    top1 = number(whole.row["top1"], "{:.2f} %")
    with styled():
        canvas = Canvas(figsize=(7.5, 1.4 + INCH * len(lines)), layout="constrained")
        canvas.suptitle(f"Change of top-1 at one budget · {group.title}", fontsize=9)
        axes = canvas.add_subplot()
        axes.axvline(0, color="black", lw=0.8)
        for at, line in enumerate(lines):
            row, look = line.row, look_of(str(line.row["method"]))
            if present(row["delta_low"]):
                ends = [row["delta_low"], row["delta_high"]]
                axes.plot(ends, [at, at], color=look.colour, lw=1.6, zorder=2)
            axes.plot(row["delta_top1"], at, ms=7.5, zorder=3, **look.mark)
        axes.set_yticks(range(len(lines)), [_label(line) for line in lines])
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.set_xlabel(f"points of top-1 against the unpruned model's {top1} (bars: 95 %, paired)")
        right = axes.secondary_yaxis("right")
        works = [number(line.row["reduction_pct"], "{:+.1f} % MACs") for line in lines]
        right.set_yticks(range(len(lines)), works)
        for side in (axes, right):
            side.tick_params(axis="y", length=0)
        said = "; ".join(f"{line.label} {_change(line)}" for line in lines)
        return finished(
            canvas,
            f"{name}.{group.name}",
            title=f"Change of top-1 at one budget: {group.title}",
            caption="Points of top-1 gained or lost against the unpruned model on the same images, "
            f"mean over seeds, with the paired 95 % interval, on {group.title}. An interval that "
            "holds 0 cannot be told from the unpruned model; grey marks are controls. On the "
            "right: change of the MACs, the method's own products included.",
            alt=f"Dot plot of {len(lines)} settings, change of top-1 in points: {said}.",
        )


def _pruned(group: Group) -> list[Line]:
    """Settings with a change to draw."""
    return [
        line
        for line in group.lines
        if line.row["method"] != "none" and present(line.row["delta_top1"])
    ]


def _label(line: Line) -> str:
    return f"{line.label} (control)" if is_control(str(line.row["method"])) else line.label


def _change(line: Line) -> str:
    if not present(line.row["delta_low"]):
        return number(line.row["delta_top1"], "{:+.2f}")
    return numbers(line.row, "{:+.2f} [{:+.2f}, {:+.2f}]", "delta_top1", "delta_low", "delta_high")
