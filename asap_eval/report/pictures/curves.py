"""What each method loses at several amounts of work: a small panel a method, random in each.

Twenty curves in one panel cannot be told apart; beside random patches each can be judged alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from asap_eval.report.layouts.columns import name_of, present
from asap_eval.report.pictures.figure import Figure, Found, Picture, finished, styled
from asap_eval.report.pictures.groups import Group, Line, groups
from asap_eval.report.pictures.looks import is_control, look_of

AMOUNTS = 3
"""Budgets that make a curve."""
CURVES = 3
"""Curves that make a picture."""
ACROSS = 5
"""Panels side by side."""
REFERENCE = "random"
BELOW = 1.15
"""The axis ends at so many times the largest loss of a control; lower ends are written there."""


def curves(records: Sequence[Found]) -> list[Figure]:
    """One figure for each group with several methods at several budgets of MACs."""
    made = []
    for group in groups(records):
        found = _curves(group)
        if len(found) >= CURVES:
            made.append(_figure(group, found))
    return made


def _curves(group: Group) -> list[list[Line]]:
    """Lines of one method and options at several budgets, from the least work spared to the most.

    Methods with the smallest loss at the middle of the work come first, controls last.
    """
    alike: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in group.lines:
        row = line.row
        if row["budget"] == "macs" and present(row["delta_top1"]):
            alike[str(row["method"]), str(row["options"])].append(line)
    found = [
        sorted(lines, key=lambda line: -line.row["reduction_pct"])
        for lines in alike.values()
        if len({str(line.row["target"]) for line in lines}) >= AMOUNTS
    ]
    return sorted(found, key=lambda c: (is_control(_method(c)), -_middle(c), _label(c)))


def _method(curve: Sequence[Line]) -> str:
    return str(curve[0].row["method"])


def _middle(curve: Sequence[Line]) -> float:
    return float(curve[len(curve) // 2].row["delta_top1"])


def _label(curve: Sequence[Line]) -> str:
    return name_of({**curve[0].row, "k": None, "seed": 0})


def _figure(group: Group, found: Sequence[Sequence[Line]]) -> Figure:
    floor = _floor(found)
    reference = next((c for c in found if _method(c) == REFERENCE), None)
    rows = ceil(len(found) / ACROSS)
    with styled():
        canvas = Canvas(figsize=(8.6, 0.9 + 1.5 * rows), layout="constrained")
        canvas.suptitle(f"Loss of top-1 at several amounts of work · {group.title}", fontsize=9)
        panels = [*canvas.subplots(rows, ACROSS, sharex=True, sharey=True, squeeze=False).flat]
        for axes, curve in zip(panels, found, strict=False):
            _panel(axes, curve, reference, floor)
        for axes in panels[len(found) :]:
            axes.set_axis_off()
        panels[0].set_ylim(floor, 1.5)
        canvas.supxlabel("change of the MACs in %, the method's own products included", fontsize=9)
        canvas.supylabel("points of top-1 (band: 95 %, paired)", fontsize=9)
        said = "; ".join(f"{_label(c)} {_points(c)}" for c in found)
        return finished(
            canvas,
            f"curves.{group.name}",
            title=f"Loss of top-1 at several amounts of work: {group.title}",
            caption="Points of top-1 lost against the unpruned model on the same images, with the "
            f"paired 95 % interval, at several budgets, on {group.title}. A panel a method, from "
            "the smallest loss at the middle budget on; the controls are last and grey. The dashed "
            "line is random patches. Where a curve ends below an axis its last value stands there.",
            alt=f"{len(found)} panels of loss against work: {said}.",
        )


def _panel(
    axes: Axes, curve: Sequence[Line], reference: Sequence[Line] | None, floor: float
) -> None:
    look = look_of(_method(curve))
    if reference is not None and reference is not curve:
        axes.plot(*_ways(reference), color="0.5", lw=1, ls=(0, (3, 2)))
    axes.axhline(0, color="black", lw=0.6)
    work, change = _ways(curve)
    rows = [line.row for line in curve]
    if all(present(row["delta_low"]) for row in rows):
        low, high = (
            [0.0, *(float(row[name]) for row in rows)] for name in ("delta_low", "delta_high")
        )
        axes.fill_between(work, low, high, color=look.colour, alpha=0.2, lw=0)
    axes.plot(work, change, color=look.colour, lw=1.2)
    axes.plot(work[1:], change[1:], ms=5.5, **look.mark)
    if change[-1] < floor:
        axes.annotate(f"{change[-1]:.0f}", (work[-1], floor), ha="center", va="bottom", fontsize=8)
    axes.set_title(_label(curve), fontsize=8)


def _ways(curve: Sequence[Line]) -> tuple[list[float], list[float]]:
    """Work and change along a curve, from the unpruned model on."""
    names = ("reduction_pct", "delta_top1")
    work, change = ([0.0, *(float(line.row[name]) for line in curve)] for name in names)
    return work, change


def _floor(found: Sequence[Sequence[Line]]) -> float:
    controls = [c for c in found if is_control(_method(c))]
    return BELOW * min(min(_ways(curve)[1]) for curve in controls or found)


def _points(curve: Sequence[Line]) -> str:
    pairs = zip(*_ways(curve), strict=True)
    return ", ".join(f"{y:+.1f} at {x:.0f} %" for x, y in list(pairs)[1:])


CURVES_OF_WORK = Picture(
    "curves",
    f"{CURVES} methods with budget=macs at {AMOUNTS} targets",
    curves,
)
