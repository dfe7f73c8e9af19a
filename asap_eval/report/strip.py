"""What became of every patch of the frames of a clip: a picture strip, and an animated file.

Kept patches show the frame, pooled ones show it pale, dropped ones are dark; the method's sink, if
it notes one, is framed in red.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from asap_eval.errors import BadValueError

KEPT, POOLED, DROPPED = range(3)
"""Fates of a patch."""

PALE, DARK, RED = (190, 205, 235), (12, 12, 16), (230, 30, 30)
SHARE = {POOLED: 0.65, DROPPED: 0.88}
"""How much of a patch its colour covers."""

MARGIN, LINE = 6, 14
"""Pixels between pictures, and of a line of text."""

ANIMATED = (".gif", ".webp", ".png")
"""Endings of animated files (``.png``: APNG)."""


@dataclass(frozen=True)
class KeepMap:
    """One frame as the model saw it.

    Attributes:
        image: RGB, of the model's input size. grid: patches down and across.
        fates: ``[P]`` of each patch, row by row. sink: place of the sink's patch, None without.
        title: one line above it.
    """

    image: Image.Image
    grid: tuple[int, int]
    fates: Sequence[int]
    sink: int | None = None
    title: str = ""

    def drawn(self, side: int) -> Image.Image:
        """The frame with the fates of its patches, ``side`` pixels high."""
        down, across = self.grid
        height, width = side, round(side * self.image.width / self.image.height)
        image = self.image.resize((width, height), Image.Resampling.BICUBIC)
        for fate, share in SHARE.items():
            cells = bytes(round(255 * share) if f == fate else 0 for f in self.fates)
            mask = Image.frombytes("L", (across, down), cells)
            colour = Image.new("RGB", image.size, PALE if fate == POOLED else DARK)
            image.paste(colour, mask=mask.resize(image.size, Image.Resampling.NEAREST))
        if self.sink is not None:
            row, column = divmod(self.sink, across)
            left, top = column * width / across, row * height / down
            box = (left, top, left + width / across - 1, top + height / down - 1)
            ImageDraw.Draw(image).rectangle(box, outline=RED, width=max(2, side // 80))
        return image


def strip(maps: Sequence[KeepMap], side: int = 160) -> Image.Image:
    """All frames in a row, and what became of their patches below.

    Args:
        maps: at least one, all of one size. side: height of each picture in pixels.
    """
    panels = [_panel(one, side) for one in maps]
    width, height = panels[0].size
    sheet = Image.new("RGB", (len(panels) * (width + MARGIN) - MARGIN, height), "white")
    for place, panel in enumerate(panels):
        sheet.paste(panel, (place * (width + MARGIN), 0))
    return sheet


def save_strip(maps: Sequence[KeepMap], path: Path, side: int = 160) -> None:
    """Write the strip as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strip(maps, side).save(path)


def save_animated(maps: Sequence[KeepMap], path: Path, side: int = 160, hold: int = 400) -> None:
    """Write the keep-maps one after the other.

    Args:
        hold: milliseconds each frame is shown.

    Raises:
        BadValueError: a file name whose ending is no animated format.
    """
    if path.suffix.lower() not in ANIMATED:
        raise BadValueError(f"{path} cannot be animated: end it in {' or '.join(ANIMATED)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = (_panel(one, side) for one in maps)
    first.save(path, save_all=True, append_images=rest, duration=hold, loop=0)


def _panel(one: KeepMap, side: int) -> Image.Image:
    """Title, frame and keep-map, one below the other."""
    below = one.drawn(side)
    whole = one.image.resize(below.size, Image.Resampling.BICUBIC)
    panel = Image.new("RGB", (below.width, LINE + 2 * side + MARGIN), "white")
    ImageDraw.Draw(panel).text((1, 1), one.title, fill="black")
    panel.paste(whole, (0, LINE))
    panel.paste(below, (0, LINE + side + MARGIN))
    return panel
