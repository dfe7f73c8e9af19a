"""The walk itself, block by block: C as heat maps, and on which patches its mass gathers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure as Canvas

from asap_eval.report.pictures.figure import Figure, Found, Picture, finished, styled
from asap_eval.report.pictures.walks import Walk, walks

LEAST, MOST = 5e-4, 0.2
"""Ends of the scale of C: an even share of 197 tokens is 0.005."""
ACROSS = 6
"""Blocks in a row."""

SINKS = {"heaviest": "the heaviest column of C", "sink": "the largest entry of C's class row"}
"""Arrays of places, and what lies there."""


def chains(records: Sequence[Found]) -> list[Figure]:
    """Of the first walk over each set of images that has its arrays, the plain one if it has."""
    found = []
    for name, title, here in walks(records):
        walk = next((walk for walk in here if walk.arrays is not None), None)
        if walk is None or walk.arrays is None:
            continue
        found.append(_chain(name, title, walk, walk.arrays["mean"]))
        for which in SINKS:
            if which in walk.arrays:
                found.append(_places(name, title, walk, which, walk.arrays[which]))
    return found


def _chain(name: str, title: str, walk: Walk, mean: np.ndarray[Any, Any]) -> Figure:
    shown = np.clip(mean.astype(float), LEAST, MOST)
    return _maps(
        shown,
        LogNorm(LEAST, MOST),
        label=f"entry of C (mean; cut at {LEAST:g} and {MOST:g})",
        x="token: reached",
        y="token: began",
        name=f"walk-maps.{name}",
        title=f"The walk C after each block · {title} · {walk.label}",
        caption="Row i says where the walk that began at token i is after each block, the mean "
        f"over images; the class token is first. {title}; {walk.label}. Dark columns are sinks.",
        alt=f"{len(mean)} heat maps of {mean.shape[1]} by {mean.shape[2]} tokens: a diagonal that "
        "fades from block to block, and columns that darken.",
    )


def _places(name: str, title: str, walk: Walk, which: str, counts: np.ndarray[Any, Any]) -> Figure:
    share = 100 * counts / counts.sum((1, 2), keepdims=True)
    block, row, column = np.unravel_index(share.argmax(), share.shape)
    return _maps(
        share,
        PowerNorm(0.5, 0, float(share.max())),
        label="images in %",
        x="patch across",
        y="patch down",
        name=f"walk-{which}.{name}",
        title=f"Where {SINKS[which]} lies after each block · {title} · {walk.label}",
        caption=f"Share of the images in which {SINKS[which]} (patches alone) is that patch, after "
        f"each block. {title}; {walk.label}.",
        alt=f"{len(share)} maps of {share.shape[1]} by {share.shape[2]} patches. The most frequent "
        f"place is row {row + 1}, column {column + 1} after block {block + 1}, in "
        f"{share.max():.1f} % of the images.",
    )


def _maps(
    values: np.ndarray[Any, Any],
    norm: Normalize,
    *,
    label: str,
    x: str,
    y: str,
    name: str,
    title: str,
    caption: str,
    alt: str,
) -> Figure:
    """One grey map for each block, ``[L, h, w]``, with one scale."""
    down = math.ceil(len(values) / ACROSS)
    with styled():
        canvas = Canvas(figsize=(9.2, 0.9 + 1.5 * down), layout="constrained")
        canvas.suptitle(title, fontsize=9)
        panels = canvas.subplots(down, ACROSS, squeeze=False, sharex=True, sharey=True)
        for at, axes in enumerate(panels.flat):
            axes.set_visible(at < len(values))
            if at < len(values):
                axes.grid(False)
                image = axes.imshow(values[at], cmap="Greys", norm=norm, interpolation="nearest")
                axes.set_title(f"block {at + 1}")
        canvas.supxlabel(x, fontsize=9)
        canvas.supylabel(y, fontsize=9)
        canvas.colorbar(image, ax=panels, label=label, shrink=0.9)
        return finished(canvas, name, title=title, caption=caption, alt=alt)


CHAIN = Picture("walk", "a record of bench=walk with its arrays beside it", chains)
