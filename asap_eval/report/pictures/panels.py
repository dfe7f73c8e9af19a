"""Panels beside keep-maps: an image, a map of one number for each patch, the legend of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from PIL import Image

COLOURS = 256
"""Of the PNG of a sheet."""
BESIDE = {"distance": "distance to the sink", "bin": "bins of it"}
"""Notes of a method that are drawn beside its map, and what they are."""


def shown(axes: Axes, image: Image.Image, title: str) -> None:
    """A picture, or a map that is drawn already."""
    axes.imshow(np.asarray(image), interpolation="antialiased")
    axes.set_title(title, fontsize=7)


def field(axes: Axes, values: Sequence[float], sink: int, grid: tuple[int, int], name: str) -> None:
    """A number of each patch, ``[P]``, with the sink framed.

    Args:
        name: of the note, a key of `BESIDE`.
    """
    places = np.array(values, dtype=float).reshape(grid)
    others = np.delete(places.ravel(), sink)  # its own 0 would take most of the greys
    axes.imshow(places, cmap="Greys_r", interpolation="nearest", vmin=others.min())
    if name == "bin":
        for (row, across), value in np.ndenumerate(places):
            light = value > 0.6 * places.max()
            axes.text(
                across,
                row,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=4,
                color="black" if light else "white",
            )
    row, across = divmod(sink, grid[1])
    axes.add_patch(Rectangle((across - 0.5, row - 0.5), 1, 1, fill=False, ec="red", lw=1.5))
    what = BESIDE[name]
    span = f"{others.min():.2g} to {others.max():.2g}"
    axes.set_title(f"{what}\n{span}" if name == "distance" else what, fontsize=7)


def legend() -> list[Any]:
    """Handles for what a keep-map shows."""
    return [
        Patch(fc="white", ec="0.3", label="kept"),
        Line2D(
            [],
            [],
            ls="",
            marker="s",
            ms=8,
            mfc="0.8",
            mec="0.3",
            mew=0.5,
            label="pooled: dots, its token's colour",
        ),
        Patch(fc="0.05", ec="black", label="dropped: light dots on dark"),
        Patch(fill=False, ec="red", lw=1.5, label="sink"),
    ]
