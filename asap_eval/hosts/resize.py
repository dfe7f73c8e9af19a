"""Images at another grid of patches: fewer pixels, patches of the same size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resize(
    images: Tensor, built: tuple[int, int], own: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """``[B, 3, h, w]`` images that make a ``grid`` of patches, from ``[B, 3, H, W]``.

    Antialiased bicubic resampling, at least in fp32, each image on its own. Its multiplications
    are not counted as work: it takes the place of the resizing that the data's transform does.

    Args:
        built: H and W, the size the model was built for. own, grid: patches down and across that
            those make, and that the result makes.
    """
    size = [side // before * after for side, before, after in zip(built, own, grid, strict=True)]
    precise = images.to(torch.promote_types(images.dtype, torch.float32))
    return interpolate(precise, size, mode="bicubic", antialias=True).to(images.dtype)
