"""What a picture is: its two files and its words, and the look that all pictures share.

Nothing depends on colour alone: series differ in marker, line and fill. The same records give the
same bytes on the same release of matplotlib: no date, no random ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Canvas
from PIL import Image

from asap_eval.record import RunRecord

Found = tuple[Path, RunRecord]
"""A record and the file it lies in, as `read_records` gives them; samples and arrays lie beside."""

DPI = 120
"""Dots per inch of the PNG."""

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "hatch.linewidth": 0.6,
    "svg.fonttype": "path",  # the same letters wherever it is shown
}

MARKERS = "osD^vP*X<>pHdh8"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
"""Told apart by readers who see colours differently (Okabe and Ito)."""
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)), (0, (3, 1)))


@dataclass(frozen=True)
class Figure:
    """One picture in both formats.

    Attributes:
        name: of its files, without an ending. title, caption: what it shows, and how to read it.
        alt: its content in words, for who cannot see it. svg, png: the files' bytes.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: bytes
    png: bytes


@dataclass(frozen=True)
class Picture:
    """A kind of picture.

    Attributes:
        name: which its figures' names begin with. needs: the records it is drawn from, in words.
        draw: its figures; none where those records are missing.
    """

    name: str
    needs: str
    draw: Callable[[Sequence[Found]], list[Figure]]


def styled() -> AbstractContextManager[None]:
    """The look of all pictures, whatever the user's own settings are: draw inside it."""
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"})


def finished(
    canvas: Canvas, name: str, *, title: str, caption: str, alt: str, colours: int | None = None
) -> Figure:
    """The bytes of a drawing (call it inside `styled`).

    Args:
        colours: of the PNG, at most 256: photographs would make it large. None = all.
    """
    svg, png = BytesIO(), BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # ids differ between pictures of one page
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    canvas.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    if colours is not None:
        with Image.open(png) as whole:
            few = whole.convert("RGB").quantize(colours, Image.Quantize.FASTOCTREE)
        png = BytesIO()
        few.save(png, "PNG", optimize=True)
    return Figure(name, title, caption, alt, svg.getvalue(), png.getvalue())
