"""Accuracy against what it costs: MACs, or throughput; a Pareto front where intervals show one.

Settings of one amount of work have nothing to be drawn against: `dots` sets them side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from asap_eval.report.frame import SAME_WORK
from asap_eval.report.layouts.columns import Row, present
from asap_eval.report.pictures.dots import dots, one_budget
from asap_eval.report.pictures.figure import Figure, Found, Picture, finished, styled
from asap_eval.report.pictures.groups import Group, Line, groups
from asap_eval.report.pictures.looks import is_control, look_of

FRONT: dict[str, Any] = {"color": "black", "lw": 1, "ls": (0, (4, 2))}


@dataclass(frozen=True)
class Point:
    """A line in the picture: cost and accuracy, with the ends of their intervals."""

    method: str
    x: float
    y: float
    x_bar: tuple[float, float] | None
    y_bar: tuple[float, float] | None


def _by_macs(row: Row) -> tuple[float, tuple[float, float] | None] | None:
    if not present(row["mean_g"]):
        return None
    return float(row["mean_g"] + row["method_g"]), None


def _by_speed(row: Row) -> tuple[float, tuple[float, float] | None] | None:
    if row["method"] == "none":
        return 1.0, None
    if not present(row["speedup"]):
        return None
    return float(row["speedup"]), (float(row["speedup_p10"]), float(row["speedup_p90"]))


Cost = Callable[[Row], "tuple[float, tuple[float, float] | None] | None"]


def by_macs(records: Sequence[Found]) -> list[Figure]:
    """One figure for each group with an unpruned model and at least two other lines."""
    return [
        dots(group, "accuracy-macs")
        if one_budget(group)
        else _figure(
            group,
            points,
            name="accuracy-macs",
            title="Accuracy against work",
            x="GMACs per image, the method's own products included",
            sign=-1,
        )
        for group, points in _groups(records, _by_macs)
    ]


def by_speed(records: Sequence[Found]) -> list[Figure]:
    """As `by_macs`, of records with a measured speed."""
    return [
        _figure(
            group,
            points,
            name="accuracy-throughput",
            title="Accuracy against throughput",
            x="images per second over those of the fastest unpruned model (bars: p10 to p90)",
            sign=1,
        )
        for group, points in _groups(records, _by_speed)
    ]


def _groups(records: Sequence[Found], cost: Cost) -> list[tuple[Group, list[Point]]]:
    found = []
    for group in groups(records):
        points = [point for line in group.lines if (point := _point(line, cost))]
        if len(points) > 2 and any(point.method == "none" for point in points):
            found.append((group, points))
    return found


def _point(line: Line, cost: Cost) -> Point | None:
    row = line.row
    there = cost(row)
    if there is None or not present(row["top1"]):
        return None
    bar = None
    if present(row["delta_low"]):
        whole = row["top1"] - row["delta_top1"]
        bar = (float(whole + row["delta_low"]), float(whole + row["delta_high"]))
    return Point(str(row["method"]), there[0], float(row["top1"]), there[1], bar)


def front(points: Sequence[Point], sign: int) -> list[Point]:
    """Points that no other beats: less cost (``sign`` -1) or more speed (1), and more accuracy.

    Returns:
        From the cheapest to the most accurate.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-sign * p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def untold(points: Sequence[Point], sign: int) -> str:
    """Why no front is drawn; empty where each point of it is above whatever costs no more.

    Above means by the whole 95 % intervals; costs within `SAME_WORK` percent are the same.
    """
    best = front(points, sign)
    if len(best) < 2:
        return "one setting beats all others"
    for point in best:
        for other in points:
            cheaper = sign * other.x >= sign * point.x - SAME_WORK / 100 * point.x
            if other is not point and cheaper and not _above(point, other):
                return f"{point.method} and {other.method} cannot be told apart"
    return ""


def _above(point: Point, other: Point) -> bool:
    """Whether the intervals leave no doubt; without one only the unpruned model is sure."""
    low, high = _ends(point), _ends(other)
    return low is not None and high is not None and low[0] > high[1]


def _ends(point: Point) -> tuple[float, float] | None:
    return (point.y, point.y) if point.method == "none" else point.y_bar


def _figure(
    group: Group, points: Sequence[Point], *, name: str, title: str, x: str, sign: int
) -> Figure:
    whole = next(point for point in points if point.method == "none")
    best, why = front(points, sign), untold(points, sign)
    with styled():
        canvas = Canvas(figsize=(7.5, 5.4), layout="constrained")
        axes = canvas.add_subplot()
        axes.set_title(f"{title} · {group.title}")
        handles = [_drawn(axes, name, same) for name, same in _by(points)]
        if not why:
            axes.plot([p.x for p in best], [p.y for p in best], zorder=1, **FRONT)
            handles.append(Line2D([], [], label="Pareto front", **FRONT))
        axes.axhline(whole.y, color="0.5", lw=0.8, ls=":")
        handles.append(Line2D([], [], color="0.5", lw=0.8, ls=":", label="unpruned"))
        axes.set_xlabel(x)
        axes.set_ylabel("top-1 in % (bars: 95 % interval of the paired difference)")
        right = axes.secondary_yaxis("right", functions=_points(whole.y))
        right.grid(False)
        right.set_ylabel("difference to the unpruned model in points")
        if sign < 0:
            top = axes.secondary_xaxis("top", functions=_percent(whole.x))
            top.grid(False)
            top.set_xlabel("change of the MACs in %")
        canvas.legend(handles=handles, loc="outside lower center", ncols=4)
        on = ", ".join(dict.fromkeys(p.method for p in best if p.method != "none"))
        line = (
            f"No Pareto front is drawn: {why}."
            if why
            else "The dashed line joins what no other setting beats, by whole 95 % intervals."
        )
        beats = f"No Pareto front: {why}." if why else f"On the Pareto front beside it: {on}."
        return finished(
            canvas,
            f"{name}.{group.name}",
            title=f"{title}: {group.title}",
            caption=f"{title} on {group.title}. Each mark is one setting of a method, the mean "
            f"over its seeds; grey marks are controls. {line}",
            alt=f"Scatter plot of {len(points)} settings of {len(_by(points))} methods. Unpruned: "
            f"{whole.y:.2f} % top-1. {beats}",
        )


def _points(whole: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """From a top-1 to its difference from another, and back."""
    return lambda top1: top1 - whole, lambda points: points + whole


def _percent(whole: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """From MACs to their change in percent, and back."""
    return lambda macs: 100 * (macs / whole - 1), lambda percent: whole * (percent / 100 + 1)


def _by(points: Sequence[Point]) -> list[tuple[str, list[Point]]]:
    """Points of each method; controls last."""
    names = sorted({p.method for p in points}, key=lambda name: (is_control(name), name))
    return [(name, [p for p in points if p.method == name]) for name in names]


def _drawn(axes: Axes, name: str, points: Sequence[Point]) -> Line2D:
    """One method's marks; returns its entry of the legend."""
    look = look_of(name)
    size, thin = (7.0, 0.9) if len(points) <= 6 else (4.5, 0.4)
    bar: dict[str, Any] = {"color": look.colour, "lw": thin, "alpha": 0.7, "zorder": 2}
    for point in points:
        if point.y_bar:
            axes.plot([point.x] * 2, point.y_bar, **bar)
        if point.x_bar:
            axes.plot(point.x_bar, [point.y] * 2, **bar)
    axes.plot([p.x for p in points], [p.y for p in points], ms=size, zorder=3, **look.mark)
    notes = ["control"] if is_control(name) else []
    notes += [f"{len(points)} settings"] if len(points) > 1 else []
    label = f"{name} ({', '.join(notes)})" if notes else name
    return Line2D([], [], ms=6.5, label=label, **look.mark)


MACS = Picture(
    "accuracy-macs",
    "the unpruned model and at least two methods or settings on the same images",
    by_macs,
)
SPEED = Picture(
    "accuracy-throughput",
    "records with a measured speed (speed=true) of at least two methods on the same images",
    by_speed,
)
