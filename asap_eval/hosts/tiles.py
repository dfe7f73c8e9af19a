"""LLaVA-NeXT's tiles: how many a picture has, and what of their stitched grid is padding.

Both are asked of transformers' own rules, so that nothing can drift from what its processor did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asap_eval.packing import Crops


def tiles_of(config: Any, size: Tensor) -> tuple[int, int]:
    """Tiles down and across of a picture; ``size`` is its height and width ``[2]``."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    pinpoints, side = config.image_grid_pinpoints, config.vision_config.image_size
    shape = get_anyres_image_grid_shape(size, pinpoints, side)
    return shape[0], shape[1]


def crops_of(
    source: Tensor,
    lengths: Sequence[int],
    *,
    first: int,
    size: Tensor | None,
    tiles: tuple[int, int],
    grid: tuple[int, int],
) -> Crops:
    """A sample's crops, as a packing sees them.

    Args:
        source: ``[C, P]`` of its crops' trace. lengths: tokens of each crop, prefix included.
        first: 0 where the class token is handed on, otherwise 1.
        size: of the picture; ``None`` = there are no tiles, whose padding it would say.
    """
    crop = torch.cat([torch.full((n - first,), number) for number, n in enumerate(lengths)])
    slot = torch.cat([torch.arange(first, n) for n in lengths])
    return Crops(
        crop=crop.to(source.device),
        slot=slot.to(source.device),
        source=source,
        grid=grid,
        tiles=tiles,
        padding=(0, 0) if size is None else _padding(size, tiles, grid),
    )


def _padding(size: Tensor, tiles: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Rows above and columns left of the image in the stitched grid, as many as below and right."""
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    rows, columns = tiles[0] * grid[0], tiles[1] * grid[1]
    # Padding is the same on opposite sides: the first place that is left says all.
    places = torch.arange(rows * columns).view(1, rows, columns)
    corner = int(unpad_image(places, size)[0, 0, 0])
    return corner // columns, corner % columns
