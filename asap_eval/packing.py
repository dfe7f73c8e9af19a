"""In which order the tokens of an image and of its tiles are handed to a language model.

An image of any resolution reaches the tower as a small base crop and as tiles of a larger version.
The tiles stitched together are one grid of patches, part of which may be padding. A packing is
data, an order of tokens. Tensors only: no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

NEWLINE = -1
"""In an order: not a token of a crop but the model's newline embedding."""

Newline = Literal["kept", "all", "none"]
"""Newlines after the rows of the stitched grid: of rows that kept a token, of every row that is not
padding, or of none."""


@dataclass(frozen=True)
class Crops:
    """The tokens of one sample, crop after crop, each crop in the order of its own sequence.

    Attributes:
        crop: ``[T]`` crop of each token, 0 = base. slot: ``[T]`` its slot in that crop's sequence
            (class token included where it is handed on).
        source: ``[C, P]`` slot of each patch in its crop's sequence, -1 = dropped; slots are those
            of ``slot``.
        grid: patches of a crop, down and across. tiles: tiles of the sample, down and across;
            (0, 0) = the base crop alone.
        padding: patches on each side (rows above and below, columns left and right) of the
            stitched grid that hold no image.
    """

    crop: Tensor
    slot: Tensor
    source: Tensor
    grid: tuple[int, int]
    tiles: tuple[int, int]
    padding: tuple[int, int]

    @property
    def rows(self) -> int:
        """Rows of the stitched grid."""
        return self.tiles[0] * self.grid[0]

    @property
    def columns(self) -> int:
        return self.tiles[1] * self.grid[1]

    @cached_property
    def stitched(self) -> Tensor:
        """``[C, P]`` place of each patch in the stitched grid, in raster order; -1 = base crop."""
        (down, across), (_, wide) = self.grid, self.tiles
        crop, patch = (torch.arange(n, device=self.source.device) for n in self.source.shape)
        tile = (crop - 1)[:, None]
        row = tile // max(wide, 1) * down + patch // across
        column = tile % max(wide, 1) * across + patch % across
        return torch.where(tile >= 0, row * self.columns + column, -1)

    @cached_property
    def inside(self) -> Tensor:
        """``[C, P]`` bool: patches that are not padding; all of the base crop."""
        above, left = self.padding
        row = torch.div(self.stitched, max(self.columns, 1), rounding_mode="floor")
        column = self.stitched % max(self.columns, 1)
        across = (column >= left) & (column < self.columns - left)
        down = (row >= above) & (row < self.rows - above)
        return (self.stitched < 0) | (across & down)

    @cached_property
    def held(self) -> Tensor:
        """``[T]`` patches each token holds."""
        return self._per_token(torch.ones_like(self.source))

    @cached_property
    def place(self) -> Tensor:
        """``[T]`` stitched place of a token of a tile that holds one patch or a filled rectangle of
        patches: of the first of them. -1 = it has none."""
        row = torch.div(self.stitched, max(self.columns, 1), rounding_mode="floor")
        column = self.stitched % max(self.columns, 1)
        (top, bottom), (left, right) = self._range(row), self._range(column)
        filled = (bottom - top + 1) * (right - left + 1) == self.held
        placed = filled & (self.held > 0) & (self.crop > 0)
        return torch.where(placed, top * self.columns + left, -1)

    @cached_property
    def shows(self) -> Tensor:
        """``[T]`` bool: tokens that hold a patch of the image, not padding alone. A token without
        patches (a class token) shows its whole crop."""
        return (self._per_token(self.inside.long()) > 0) | (self.held == 0)

    def raster(self, chosen: Tensor) -> Tensor:
        """Indices of the tokens of a mask ``[T]`` by their place in the stitched grid."""
        index = chosen.nonzero().flatten()
        return index[self.place[index].argsort(stable=True)]

    def _per_token(self, values: Tensor) -> Tensor:
        """``[T]`` sums over the patches that each token holds; ``values`` is ``[C, P]``."""
        kept = self.source >= 0
        sums = values.new_zeros(self.source.shape[0], self._slots)
        sums.scatter_add_(1, self.source.clamp(min=0), torch.where(kept, values, 0))
        return sums[self.crop, self.slot]

    @property
    def _slots(self) -> int:
        return int(self.slot.max()) + 1 if self.slot.numel() else 1

    def _range(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """``[T]`` least and largest value among the patches of each token."""
        slots = self._slots  # one more for dropped patches
        into = torch.where(self.source >= 0, self.source, slots)
        ends = []
        for reduce, start in (("amin", self.source.shape[1] * len(self.source)), ("amax", -1)):
            out = values.new_full((len(self.source), slots + 1), start)
            ends.append(out.scatter_reduce_(1, into, values, reduce)[self.crop, self.slot])
        return ends[0], ends[1]


def base_then_raster(crops: Crops) -> Tensor:
    """The base crop, then the tiles' patches in raster order of the stitched grid, padding included
    and without newlines."""
    tile = crops.crop > 0
    return torch.cat([(~tile).nonzero().flatten(), crops.raster(tile)])


def spatial(crops: Crops, newline: Newline = "kept") -> Tensor:
    """The model's own packing, over the tokens that are left.

    The base crop in its own order; tokens of one patch (or of a rectangle of patches, as in a
    smaller image) in raster order of the stitched grid, rows and columns of padding left out; last,
    tile by tile, tokens that hold other patches or none, and so have no place of their own. With
    every token kept this is the unpruned order.

    Returns:
        int64 indices into the tokens of ``crops``; `NEWLINE` = the newline embedding.
    """
    device = crops.crop.device
    index = torch.arange(len(crops.crop), device=device)
    base = index[crops.crop == 0]
    tiles = (crops.crop > 0) & crops.shows
    placed, rest = index[tiles & (crops.place >= 0)], index[tiles & (crops.place < 0)]
    if not crops.columns:
        ends = [NEWLINE] if newline != "none" else []
        return torch.cat([base, torch.tensor(ends, dtype=torch.long, device=device)])
    above = crops.padding[0]
    place = crops.place[placed]
    # A rectangle may begin in the padding; it is seen from the first row of the image on.
    place = place + (above - place // crops.columns).clamp(min=0) * crops.columns
    rows = torch.arange(above, crops.rows - above, device=device)
    if newline == "none":
        rows = rows[:0]
    elif newline == "kept":
        rows = rows[torch.isin(rows, place // crops.columns)]
    # A newline stands behind the last column of its row: halves keep it before the next row.
    keys = torch.cat([2 * place, 2 * (rows + 1) * crops.columns - 1])
    order = torch.cat([placed, torch.full_like(rows, NEWLINE)])[keys.argsort(stable=True)]
    return torch.cat([base, order, rest])
