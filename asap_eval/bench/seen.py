"""What a model saw of an image, as a picture: after resizing and cropping, normalisation undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Normalize


def seen(pixels: Tensor, transform: Callable[[Any], Tensor]) -> list[Image.Image]:
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
