"""What became of each patch of an image, and the image as the model saw it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Normalize

FATES = ("kept", "pooled", "dropped")
"""What can happen to a patch, in the order of `fates_of`."""


def as_pictures(pixels: Tensor, transform: Callable[[Any], Tensor]) -> list[Image.Image]:
    """Inputs ``[B, 3, H, W]`` of a model as RGB pictures of H x W pixels.

    Args:
        transform: that made them; its normalisation is undone, its crop is not.
    """
    for step in getattr(transform, "transforms", ()):
        if isinstance(step, Normalize):
            mean, std = (torch.as_tensor(v).view(-1, 1, 1) for v in (step.mean, step.std))
            pixels = pixels * std + mean
    values = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return [Image.fromarray(value.numpy()) for value in values]


def fates_of(source: Tensor) -> Tensor:
    """``[B, P]`` the place in `FATES` of each patch, from its slot ``[B, P]`` (-1 = dropped)."""
    gone = source < 0
    slots = source.masked_fill(gone, 0)
    members = torch.zeros(len(source), int(slots.max()) + 1, dtype=torch.long)
    members.scatter_add_(1, slots, (~gone).long())
    shared = members.gather(1, slots) > 1
    return torch.where(gone, FATES.index("dropped"), shared.long())
