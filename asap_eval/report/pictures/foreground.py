"""What of the foreground survives (``bench=saliency``), and where the walk's sinks lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure as Canvas

from asap_eval.report.layouts.columns import present
from asap_eval.report.pictures.figure import MARKERS, Figure, Found, Picture, finished, styled
from asap_eval.report.pictures.groups import Group, groups

INCH = 0.3
KINDS = {
    "heaviest_on_foreground": "heaviest column of C",
    "cls_on_foreground": "largest entry of C's class row",
}
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "black", "ls": "-", "marker": "o", "mfc": "white"},
    {"color": "#0072b2", "ls": "--", "marker": "s", "mfc": "0.75"},
)


def foreground(records: Sequence[Found]) -> list[Figure]:
    """For each group the methods' recall and J, and the unpruned model's sinks."""
    found = []
    for group in groups([pair for pair in records if pair[1].job.bench == "saliency"]):
        rows = [
            (line.label, json.loads(line.row["analysis"]))
            for line in group.lines
            if present(line.row["analysis"])
        ]
        methods = [(label, a) for label, a in rows if a["keep_rate"] < 1]
        if methods:
            found.append(_recall(group, methods))
        found += [_sinks(group, analysis) for _, analysis in rows if "blocks" in analysis]
    return found


def _recall(group: Group, rows: Sequence[tuple[str, dict[str, Any]]]) -> Figure:
    rows = sorted(rows, key=lambda pair: pair[1]["youden_j"])
    places = range(len(rows))
    with styled():
        canvas = Canvas(figsize=(9.0, 1.7 + INCH * len(rows)), layout="constrained")
        canvas.suptitle(f"What of the foreground is kept · {group.title}", fontsize=9)
        left, right = canvas.subplots(1, 2, sharey=True)
        for at, (name, what, chance) in enumerate(
            (
                ("foreground_recall", "foreground kept", "keep_rate"),
                ("background_removal", "background not kept", None),
            )
        ):
            _bars(left, rows, name, marker=MARKERS[at], grey=str(0.75 * at + 0.2), label=what)
            if chance:
                left.plot(
                    [a[chance] for _, a in rows],
                    places,
                    "k|",
                    ms=11,
                    mew=1.5,
                    label="all patches kept: what random patches keep of either",
                )
        _bars(right, rows, "youden_j", marker="o", grey="0.2", label=None)
        right.axvline(0, color="0.3", lw=1, ls="--")
        left.set_yticks(places, [label for label, _ in rows])
        left.set_xlim(0, 1)
        left.set_xlabel("share of the patches of that side (bars: 95 %)")
        right.set_xlabel("J = foreground kept + background not kept - 1\n(0: chance; bars: 95 %)")
        canvas.legend(loc="outside lower center", ncols=3)
        best, worst = rows[-1], rows[0]
        return finished(
            canvas,
            f"foreground.{group.name}",
            title=f"What of the foreground is kept: {group.title}",
            caption="Left: share of the foreground's patches that each method keeps one by one, "
            "and of the background's that it does not; the stroke is its share of all patches, "
            "which random patches would keep of the foreground too. Right: J, 0 = chance. "
            f"{group.title}.",
            alt=f"Dots with intervals for {len(rows)} methods. J is highest for {best[0]} "
            f"({best[1]['youden_j']:+.2f}) and lowest for {worst[0]} "
            f"({worst[1]['youden_j']:+.2f}).",
        )


def _bars(
    axes: Any,
    rows: Sequence[tuple[str, dict[str, Any]]],
    name: str,
    *,
    marker: str,
    grey: str,
    label: str | None,
) -> None:
    """A mean with its interval for each line."""
    x = [a[name] for _, a in rows]
    sides = [[abs(a[name] - a[f"{name}_ci95"][side]) for _, a in rows] for side in (0, 1)]
    axes.errorbar(
        x, range(len(rows)), xerr=sides, fmt=marker, color="black", mfc=grey, capsize=2, label=label
    )


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
