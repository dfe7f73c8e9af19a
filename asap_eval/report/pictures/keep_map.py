"""A picture of what became of every patch of one image.

Kept patches show the image. Pooled ones show the mean colour of their token, paled, with a dot, and
lines between tokens. Dropped ones are dark with a light dot. The method's sink, if it notes one,
is framed in red and white. So nothing hangs on colour alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageStat

KEPT, POOLED, DROPPED = range(3)
"""Fates of a patch."""

PALE, DARK, RED, WHITE = (190, 205, 235), (12, 12, 16), (230, 30, 30), (255, 255, 255)
SHARE = {POOLED: 0.5, DROPPED: 0.88}
"""How much of a patch its colour covers."""
LINES, LIGHT = (70, 70, 80), (190, 190, 190)
"""Of lines, and of dots on pooled and on dropped patches."""


@dataclass(frozen=True)
class KeepMap:
    """One image as the model saw it.

    Attributes:
        image: RGB, of the model's input size. grid: patches down and across.
        fates: ``[P]`` of each patch, row by row. slots: ``[P]`` token of each patch, -1 = dropped.
        sink: place of the sink's patch, None without. title: one line above it.
    """

    image: Image.Image
    grid: tuple[int, int]
    fates: Sequence[int]
    slots: Sequence[int]
    sink: int | None = None
    title: str = ""

    def drawn(self, side: int) -> Image.Image:
        """The image with the fates of its patches, ``side`` pixels high."""
        height, width = side, round(side * self.image.width / self.image.height)
        image = self.image.resize((width, height), Image.Resampling.BICUBIC)
        pooled = self._of_tokens(image.size)
        image.paste(pooled, mask=self._mask(POOLED, 255, image.size))
        for fate, colour in ((POOLED, PALE), (DROPPED, DARK)):
            mask = self._mask(fate, round(255 * SHARE[fate]), image.size)
            image.paste(Image.new("RGB", image.size, colour), mask=mask)
        self._draw_tokens(image)
        if self.sink is not None:
            left, top, right, bottom = self.box(self.sink, image.size)
            pen, thick = ImageDraw.Draw(image), max(2, side // 80)
            pen.rectangle((left, top, right - 1, bottom - 1), outline=RED, width=thick)
            inner = (left + thick, top + thick, right - 1 - thick, bottom - 1 - thick)
            if inner[0] < inner[2] and inner[1] < inner[3]:
                pen.rectangle(inner, outline=WHITE)
        return image

    def box(self, patch: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a patch in a picture of ``size``; ends are exclusive."""
        down, across = self.grid
        row, column = divmod(patch, across)
        xs = [round(at * size[0] / across) for at in (column, column + 1)]
        ys = [round(at * size[1] / down) for at in (row, row + 1)]
        return xs[0], ys[0], xs[1], ys[1]

    def _mask(self, fate: int, value: int, size: tuple[int, int]) -> Image.Image:
        mask = Image.new("L", size)
        for patch, own in enumerate(self.fates):
            if own == fate:
                mask.paste(value, self.box(patch, size))
        return mask

    def _of_tokens(self, size: tuple[int, int]) -> Image.Image:
        """Every pooled patch in the mean colour of all patches of its token."""
        tokens: dict[int, list[int]] = defaultdict(list)
        for patch, (fate, slot) in enumerate(zip(self.fates, self.slots, strict=True)):
            if fate == POOLED:
                tokens[slot].append(patch)
        painted = Image.new("RGB", size)
        for patches in tokens.values():
            means = [
                ImageStat.Stat(self.image.crop(self.box(patch, self.image.size))).mean
                for patch in patches
            ]
            colour = tuple(round(sum(parts) / len(parts)) for parts in zip(*means, strict=True))
            for patch in patches:
                painted.paste(colour, self.box(patch, size))
        return painted

    def _draw_tokens(self, image: Image.Image) -> None:
        """A dot on every patch that is not kept, and lines between neighbouring tokens."""
        down, across = self.grid
        pen = ImageDraw.Draw(image)
        for patch, fate in enumerate(self.fates):
            if fate == KEPT:
                continue
            left, top, right, bottom = self.box(patch, image.size)
            middle, dot = ((left + right) // 2, (top + bottom) // 2), (right - left) // 10
            pen.rectangle(
                (middle[0] - dot, middle[1] - dot, middle[0] + dot, middle[1] + dot),
                fill=LIGHT if fate == DROPPED else LINES,
            )
            row, column = divmod(patch, across)
            if column + 1 < across and self._apart(patch, patch + 1):
                pen.line((right - 1, top, right - 1, bottom - 1), fill=LINES)
            if row + 1 < down and self._apart(patch, patch + across):
                pen.line((left, bottom - 1, right - 1, bottom - 1), fill=LINES)

    def _apart(self, patch: int, other: int) -> bool:
        """Whether both are pooled, into different tokens."""
        both = self.fates[patch] == self.fates[other] == POOLED
        return both and self.slots[patch] != self.slots[other]
