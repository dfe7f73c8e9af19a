"""How a sink emerges in the walk over the unpruned model (the paper's Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from asap_eval.report.pictures.figure import (
    COLOURS,
    DASHES,
    MARKERS,
    Figure,
    Found,
    Picture,
    finished,
    styled,
)
from asap_eval.report.pictures.walks import Walk, walks

PANELS = (
    ("peak", "heaviest patch"),
    ("peak_with_prefix", "heaviest column, class token included"),
)
"""What of ``sink_emergence`` is drawn."""


def emergence(records: Sequence[Found]) -> list[Figure]:
    """Column masses over the blocks: of the plain walk with their spread, and means of all."""
    found = []
    for name, title, here in walks(records):
        found.append(_spread(name, title, here[0]))
        if len(here) > 1:
            found.append(_readings(name, title, here))
    return found


def _spread(name: str, title: str, walk: Walk) -> Figure:
    blocks = range(1, walk.blocks + 1)
    with styled():
        canvas = Canvas(figsize=(8.4, 3.9), layout="constrained")
        canvas.suptitle(f"Sink emergence · {title} · {walk.label}", fontsize=9)
        for axes, (column, what) in zip(canvas.subplots(1, 2), PANELS, strict=True):
            of = walk.emergence[column]
            mark = {q: [block[q] for block in of] for q in ("q5", "q25", "q50", "q75", "q95")}
            axes.fill_between(
                blocks, mark["q5"], mark["q95"], fc="0.92", ec="0.6", hatch="..", label="5 to 95 %"
            )
            axes.fill_between(blocks, mark["q25"], mark["q75"], color="0.7", label="25 to 75 %")
            axes.plot(blocks, mark["q50"], "k-o", mfc="white", label="median")
            axes.plot(blocks, [b["mean"] for b in of], "k:x", label="mean")
            _axes(axes, what, walk.blocks)
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        first, last = (walk.emergence["peak"][at]["mean"] for at in (0, -1))
        return finished(
            canvas,
            f"sink-emergence.{name}",
            title=f"Sink emergence: {title}",
            caption=f"Mass of the heaviest column of the walk C after each block of the unpruned "
            f"model, over the images of {title}; {walk.label}. Left the patches' columns alone, "
            "right with the class token's. 1 is an even share.",
            alt=f"Two rising curves over {walk.blocks} blocks with their spread over images. The "
            f"heaviest patch has a mean mass of {first:.2f} after block 1 and {last:.2f} after "
            "the last.",
        )


def _readings(name: str, title: str, found: Sequence[Walk]) -> Figure:
    with styled():
        canvas = Canvas(figsize=(8.4, 4.4), layout="constrained")
        canvas.suptitle(f"Sink emergence in other readings of the walk · {title}", fontsize=9)
        for axes, (column, what) in zip(canvas.subplots(1, 2), PANELS, strict=True):
            for at, walk in enumerate(found):
                look: dict[str, Any] = {
                    "color": COLOURS[at % len(COLOURS)],
                    "ls": DASHES[at % len(DASHES)],
                    "marker": MARKERS[at % len(MARKERS)],
                    "mfc": "white",
                    "ms": 5,
                }
                means = [block["mean"] for block in walk.emergence[column]]
                axes.plot(range(1, len(means) + 1), means, label=walk.label, **look)
            _axes(axes, f"{what}, mean", max(walk.blocks for walk in found))
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        ends = [(walk.emergence["peak"][-1]["mean"], walk.label) for walk in found]
        return finished(
            canvas,
            f"sink-emergence-readings.{name}",
            title=f"Sink emergence in other readings: {title}",
            caption="Mean mass of the heaviest column of the walk C after each block, for every "
            f"reading of the walk that was run on {title}.",
            alt=f"Lines of {len(found)} readings over the blocks. The heaviest patch ends between "
            f"{min(ends)[0]:.2f} ({min(ends)[1]}) and {max(ends)[0]:.2f} ({max(ends)[1]}).",
        )


def _axes(axes: Axes, what: str, blocks: int) -> None:
    axes.set_title(what)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    ticks = np.array([1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200])
    axes.set_yticks(ticks[(ticks >= low) & (ticks <= high)])
    axes.minorticks_off()
    axes.set_xticks(range(1, blocks + 1))
    axes.set_xlabel("block")
    axes.set_ylabel("column mass of C (1 = even share)")


EMERGENCE = Picture("sink-emergence", "records of bench=walk (experiment=fig7)", emergence)
