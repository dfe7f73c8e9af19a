"""A model's transform in two: steps on pictures first, its numbers from their bytes later.

Decoding processes hand on bytes, a quarter of what numbers take, and numbers are made where the
model is. Both halves together give the pixels of the whole transform, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Transform = Callable[[Image.Image], Tensor]

WHITE = 255.0


@dataclass(frozen=True)
class Scaling:
    """Bytes ``[..., 3, H, W]`` as numbers around zero: torchvision's ``ToTensor``, ``Normalize``.

    Attributes:
        mean, std: of each channel, of values from 0 to 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """The same in fp32, on the same device."""
        white, mean, std = _constants(self, images.device)
        return images.to(torch.float32).div_(white).sub_(mean).div_(std)


@lru_cache(maxsize=16)
def _constants(scaling: Scaling, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """White, mean and standard deviation, each to divide or subtract a whole tensor by.

    They are tensors of the device, and kept: a plain number would be divided by on a GPU as a
    product with its reciprocal, which differs in the last bit, and a copy would wait for the GPU.
    """
    with torch.inference_mode(mode=False):
        made = [
            torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
            for values in ((WHITE,), scaling.mean, scaling.std)
        ]
    return made[0], made[1], made[2]


@dataclass(frozen=True)
class PictureSteps:
    """The steps on pictures: an RGB picture to bytes ``[3, H, W]``."""

    steps: tuple[Callable[[Image.Image], Image.Image], ...]

    def __call__(self, image: Image.Image) -> Tensor:
        for step in self.steps:
            image = step(image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def shape(self) -> tuple[int, ...] | None:
        """``(3, H, W)`` of every picture's bytes; None where it depends on the picture."""
        wide, high = (tuple(self(Image.new("RGB", size)).shape) for size in ((96, 64), (64, 96)))
        return wide if wide == high else None

    def describe(self) -> list[list[Any]]:
        """All that decides what the steps do, as text."""
        return [
            [
                type(step).__name__,
                repr(step),
                sorted((k, str(v)) for k, v in vars(step).items() if not k.startswith("_")),
            ]
            for step in self.steps
        ]


def split(transform: Transform) -> tuple[Transform, Scaling | None]:
    """What decoding runs of a transform, and what makes numbers of its bytes.

    Only a transform as timm makes it for evaluation is split: known steps that resize and crop a
    picture, then ``ToTensor`` and ``Normalize``. Any other one is run whole while decoding, and
    there is no second half.
    """
    from timm.data.transforms import CenterCropOrPad, MaybeToTensor, ResizeKeepRatio
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    # By exact type: a class derived from one of these may do anything else.
    listed: list[Any] = getattr(transform, "transforms", [])
    if type(transform) is not Compose or len(listed) < 2:
        return transform, None
    *steps, to_tensor, normalise = listed
    known = all(
        type(step) in (Resize, ResizeKeepRatio, CenterCrop, CenterCropOrPad) for step in steps
    )
    if not known or type(to_tensor) not in (ToTensor, MaybeToTensor):
        return transform, None
    if type(normalise) is not Normalize:
        return transform, None
    mean, std = (
        tuple(torch.as_tensor(values, dtype=torch.float64).flatten().tolist())
        for values in (normalise.mean, normalise.std)
    )
    if (len(mean), len(std)) != (3, 3) or 0 in std:
        return transform, None
    return PictureSteps(tuple(steps)), Scaling(mean, std)
