"""Measured changes of top-1 beside the published ones, a row of an experiment in each line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from asap_eval.experiment import Experiment, experiments, load
from asap_eval.report.experiment.match import on_models
from asap_eval.report.experiment.tables import groups_of
from asap_eval.report.experiment.verdict import JUDGED, word_of
from asap_eval.report.layouts.columns import Row, name_of, present
from asap_eval.report.pictures.figure import Figure, Found, Picture, finished, styled
from asap_eval.report.pictures.looks import look_of

LEAST = 2
"""Rows with a verdict that make a picture."""
INCHES = 0.34
"""Height of a line."""
PUBLISHED_MARK: dict[str, Any] = {
    "ls": "",
    "marker": "D",
    "ms": 8,
    "mew": 1.3,
    "markerfacecolor": "none",
    "markeredgecolor": "black",
}
"""No method has this mark."""


def published(records: Sequence[Found]) -> list[Figure]:
    """One figure for each table of an experiment with enough judged rows."""
    own = [record for _, record in records]
    found = []
    for name in experiments():
        experiment = load(name)
        if not experiment.compares:
            continue
        for one, matched in on_models(experiment, own):
            models = {f.record.job.model for f in matched if f.record}
            here = [record for record in own if record.job.model in models]
            for group in groups_of(one, matched, here):
                lines = [line for line in group.lines if present(line["delta_low"])]
                if sum(word_of(line["verdict"]) in JUDGED for line in lines) >= LEAST:
                    found.append(_figure(one, lines))
    return found


def _figure(experiment: Experiment, lines: Sequence[Row]) -> Figure:
    """Judged rows first, then what they have to beat."""
    paper = experiment.about.paper or experiment.name
    rows = sorted(lines, key=lambda line: (not _is_judged(line), -line["delta_top1"]))
    first = rows[0]
    where = f"{first['model']} · {first['bench']} · {first['n']:.0f} images"
    with styled():
        canvas = Canvas(figsize=(7.5, 1.5 + INCHES * len(rows)), layout="constrained")
        axes = canvas.add_subplot()
        axes.set_title(f"Change of top-1 against the unpruned model · {paper} · {where}")
        axes.axvline(0, color="black", lw=0.8)
        for at, row in enumerate(rows):
            _line(axes, row, at)
        cut = sum(map(_is_judged, rows))
        if 0 < cut < len(rows):
            axes.axhline(cut - 0.5, color="0.6", lw=0.6, ls=":")
        axes.set_yticks(range(len(rows)), [_name(row) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("points of top-1 (bars: 95 % interval of the paired difference)")
        axes.grid(False, axis="y")
        right = axes.secondary_yaxis("right")
        right.set_yticks(range(len(rows)), [_beside(row) for row in rows])
        for side in (axes, right):
            side.tick_params(axis="y", length=0)
        canvas.legend(handles=_legend(), loc="outside lower center", ncols=3)
        said = "; ".join(map(_said, rows))
        return finished(
            canvas,
            f"published.{experiment.name}.{first['model']}-{first['bench']}-{first['n']:.0f}",
            title=f"{paper}, measured beside published: {where}",
            caption="Points of top-1 lost against the unpruned model on the same images, beside "
            f"what {paper} prints. Below the dotted line: what a method has to beat at that work. "
            "On the right: change of the MACs, the method's own products included.",
            alt=f"Change of top-1 in points on {where}: {said}.",
        )


def _line(axes: Axes, row: Row, at: int) -> None:
    look = look_of(str(row["method"]))
    axes.plot([row["delta_low"], row["delta_high"]], [at, at], color=look.colour, lw=1.4, zorder=2)
    axes.plot(row["delta_top1"], at, ms=7, zorder=3, **look.mark)
    if _is_judged(row):
        axes.plot(row["published_change"], at, zorder=4, **PUBLISHED_MARK)


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color="0.35", marker="o", ms=6, lw=1.4, markerfacecolor="white",
               label="measured (colour and mark: its method's)"),
        Line2D([], [], label="published", **PUBLISHED_MARK),
    ]  # fmt: skip


def _is_judged(row: Row) -> bool:
    """Whether a figure was published for it."""
    return present(row["published_change"])


def _said(row: Row) -> str:
    printed = f", published {row['published_change']:+.2f}" if _is_judged(row) else ""
    return f"{_name(row)} {row['delta_top1']:+.2f}{printed}"


def _name(row: Row) -> str:
    seeds = f" ({row['seeds']} seeds)" if row["seeds"] > 1 else ""
    return name_of({**row, "seed": 0}) + seeds


def _beside(row: Row) -> str:
    """The work, and the verdict where there is one."""
    work = f"{row['reduction_pct']:+.1f} % MACs" if present(row["reduction_pct"]) else ""
    word = word_of(row["verdict"])
    return f"{work}   {word}" if word else work


PUBLISHED = Picture(
    "published",
    f"at least {LEAST} rows of an experiment with a published figure and a verdict",
    published,
)
