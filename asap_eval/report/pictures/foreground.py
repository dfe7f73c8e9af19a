"""What of the foreground survives (``bench=saliency``), and where the walk's sinks lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from asap_eval.report.layouts.columns import present
from asap_eval.report.pictures.figure import Figure, Found, Picture, finished, styled
from asap_eval.report.pictures.groups import Group, Line, groups
from asap_eval.report.pictures.looks import look_of

INCH = 0.3
SIDES = (("foreground_recall", "o", "0.2"), ("background_removal", "s", "white"))
"""Of the left panel: a share of the analysis, its marker and fill."""
SAID = {"foreground_recall": "foreground kept", "background_removal": "background not kept"}
KINDS = {
    "heaviest_on_foreground": "heaviest column of C",
    "cls_on_foreground": "largest entry of C's class row",
}
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "black", "ls": "-", "marker": "o", "mfc": "white"},
    {"color": "0.45", "ls": "--", "marker": "s", "mfc": "0.75"},
)


def foreground(records: Sequence[Found]) -> list[Figure]:
    """For each group the methods' recall and J, and the unpruned model's sinks."""
    found = []
    for group in groups([pair for pair in records if pair[1].job.bench == "saliency"]):
        rows = [
            (line, json.loads(line.row["analysis"]))
            for line in group.lines
            if present(line.row["analysis"])
        ]
        methods = [(line, a) for line, a in rows if a["keep_rate"] < 1]
        if methods:
            found.append(_recall(group, methods))
        found += [_sinks(group, analysis) for _, analysis in rows if "blocks" in analysis]
    return found


def _recall(group: Group, rows: Sequence[tuple[Line, dict[str, Any]]]) -> Figure:
    rows = sorted(rows, key=lambda pair: pair[1]["youden_j"])
    places = range(len(rows))
    with styled():
        canvas = Canvas(figsize=(9.0, 1.7 + INCH * len(rows)), layout="constrained")
        canvas.suptitle(f"What of the foreground is kept · {group.title}", fontsize=9)
        left, right = canvas.subplots(1, 2, sharey=True)
        for name, marker, fill in SIDES:
            _bars(left, rows, name, marker=marker, fill=fill)
        left.plot([a["keep_rate"] for _, a in rows], places, "k|", ms=11, mew=1.5)
        _bars(right, rows, "youden_j")
        right.axvline(0, color="0.3", lw=1, ls="--")
        left.set_yticks(places, [line.label for line, _ in rows])
        left.set_xlim(0, 1)
        left.set_xlabel("share of the patches of that side (bars: 95 %)")
        right.set_xlabel("J = foreground kept + background not kept - 1\n(0: chance; bars: 95 %)")
        canvas.legend(handles=_legend(), loc="outside lower center", ncols=3)
        best, worst = rows[-1], rows[0]
        return finished(
            canvas,
            f"foreground.{group.name}",
            title=f"What of the foreground is kept: {group.title}",
            caption="Left: share of the foreground's patches that each method keeps one by one, "
            "and of the background's that it does not; the stroke is its share of all patches, "
            "which random patches would keep of the foreground too. Right: J, 0 = chance. "
            f"{group.title}.",
            alt=f"Dots with intervals for {len(rows)} methods. J is highest for {best[0].label} "
            f"({best[1]['youden_j']:+.2f}) and lowest for {worst[0].label} "
            f"({worst[1]['youden_j']:+.2f}).",
        )


def _bars(
    axes: Any,
    rows: Sequence[tuple[Line, dict[str, Any]]],
    name: str,
    *,
    marker: str | None = None,
    fill: str | None = None,
) -> None:
    """A mean with its interval for each line, in its method's colour.

    Args:
        marker, fill: None = the method's own.
    """
    for at, (line, analysis) in enumerate(rows):
        look = look_of(line.record.job.method)
        axes.plot(analysis[f"{name}_ci95"], [at, at], color=look.colour, lw=1.2)
        own = {"marker": marker or look.marker, "markerfacecolor": fill or look.fill}
        axes.plot(analysis[name], at, ms=6, **{**look.mark, **own})


def _legend() -> list[Line2D]:
    """Of the left side: there a mark says which share, and only the colour is the method's."""
    marks = [
        Line2D([], [], ls="", marker=marker, mec="black", mfc=fill, label=SAID[name])
        for name, marker, fill in SIDES
    ]
    random = "all patches kept: what random patches keep of either"
    return [*marks, Line2D([], [], ls="", marker="|", color="black", ms=11, mew=1.5, label=random)]


def _sinks(group: Group, analysis: dict[str, Any]) -> Figure:
    blocks = analysis["blocks"]
    x = [block["block"] for block in blocks]
    kinds = {kind: what for kind, what in KINDS.items() if kind in blocks[0]}
    with styled():
        canvas = Canvas(figsize=(6.2, 4.0), layout="constrained")
        axes = canvas.add_subplot()
        axes.set_title(f"Sinks of the unpruned model · {group.title}")
        for look, (kind, what) in zip(LOOKS, kinds.items(), strict=False):
            y = [block[kind] for block in blocks]
            sides = [[abs(b[kind] - b[f"{kind}_ci95"][side]) for b in blocks] for side in (0, 1)]
            axes.errorbar(x, y, yerr=sides, capsize=2, label=what, **look)
        axes.axhline(analysis["base_rate"], color="0.4", ls=":", label="a random patch")
        axes.set_xticks(x)
        axes.set_ylim(0, 1)
        axes.set_xlabel("block")
        axes.set_ylabel("share of images with the sink on\nthe foreground (bars: 95 %)")
        canvas.legend(loc="outside lower center", ncols=3)
        first, last = (blocks[at][next(iter(kinds))] for at in (0, -1))
        return finished(
            canvas,
            f"foreground-sinks.{group.name}",
            title=f"Sinks of the unpruned model: {group.title}",
            caption="Share of the photographs in which the patch where the walk C gathers after "
            f"each block lies on the foreground. {group.title}.",
            alt=f"Lines over the blocks, from {first:.2f} at block 1 to {last:.2f} at the last; a "
            f"random patch: {analysis['base_rate']:.2f}.",
        )


FOREGROUND = Picture("foreground", "records of bench=saliency (experiment=saliency)", foreground)
