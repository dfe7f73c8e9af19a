"""VisionZip: Longer is Better but Not Necessary in Vision Language Models (Yang et al.,
arXiv 2412.04467).

The tokens that the class token attends to most are handed to the language model as they are; every
other token is added to one of a few evenly spaced ones, the nearest by key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.kernels.nearest import mean_over_heads
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.packing import Crops
from asap_eval.tokens import DROPPED, Reduction


@register(
    "visionzip",
    Card(
        paper="VisionZip: Longer is Better but Not Necessary in Vision Language Models, "
        "arXiv 2412.04467",
        licence="see repository dvlab-research/VisionZip",
        training="training-free (the authors also tune the projector)",
        knob="k",
        knob_meaning="tokens handed on per crop, class token included, from 2 to the patches + 1",
        fixed_count=True,
        deviations="without contextual tokens the others are dropped (theirs divides by zero); "
        "cosines of keys in fp32; distillation and register tokens are protected",
    ),
)
@dataclass
class VisionZip(Reducer):
    """Hand on the class token, the most attended patches, and a few sums of all the others.

    Order: class token, dominant patches in raster order, contextual tokens. Of several crops: the
    base crop; the tiles' dominant patches in raster order of the stitched grid, padding included
    and without newlines; the tiles' class tokens; the tiles' contextual tokens.

    Attributes:
        k: tokens handed on per crop: class token, dominant and contextual ones.
        contextual: how many of them are contextual; ``None`` = 5 of 32, rounded, as the authors'
            54 + 10 (108 + 20, 162 + 30). Their class token is one of the 54.
        packing: of several crops: the authors' as above, or ``spatial``: the model's own, without
            padding and with newlines.
    """

    k: int = 64
    contextual: int | None = None
    packing: Literal["authors", "spatial"] = "authors"
    site = "output"
    hands_cls = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW, Need.KEYS})

    @property
    def _contextual(self) -> int:
        return round(self.k * 5 / 32) if self.contextual is None else self.contextual

    def check(self, batch: Batch) -> None:
        if not 2 <= self.k <= batch.patches + 1:
            raise BadValueError(
                f"visionzip: k={self.k} tokens of {batch.patches} patches and a class token: give "
                f"2 to {batch.patches + 1}."
            )
        if not 0 <= self._contextual < self.k:
            raise BadValueError(
                f"visionzip: contextual={self.contextual} of k={self.k} tokens: give 0 to "
                f"{self.k - 1}; the class token is one of the others."
            )

    def decide(self, view: View, state: None) -> Reduction | None:
        dominant = view.prefix + self.k - 1 - self._contextual
        return compress(view.cls_row, view.keys, dominant, self._contextual, view.prefix)

    def macs(self, view: View, state: None) -> int:
        """Cosines of the tokens that are not dominant with the targets."""
        dominant = view.prefix + self.k - 1 - self._contextual
        return (view.size.shape[1] - dominant) * self._contextual * view.keys.shape[-1]

    def pack(self, crops: Crops) -> Tensor | None:
        if self.packing == "spatial":
            return None
        tile, cls = crops.crop > 0, crops.slot == 0
        contextual = crops.slot >= self.k - self._contextual
        patches = crops.raster(tile & ~cls & ~contextual)
        base, classes, sums = (
            m.nonzero().flatten() for m in (~tile, tile & cls, tile & contextual)
        )
        return torch.cat([base, patches, classes, sums])

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 2, batch.patches + 1


def compress(
    cls_row: Tensor, keys: Tensor, dominant: int, contextual: int, prefix: int
) -> Reduction:
    """Dominant tokens in their order, the prefix first, then the contextual ones.

    A contextual token is its target plus the mean of the tokens assigned to it: a sum, not a mean.

    Args:
        cls_row: ``[b, H, N]`` attention of the class token. keys: ``[b, H, N, d]``.
        dominant: tokens kept as they are, the prefix included.
        contextual: targets of the others, at most as many as there are; 0 = they are dropped.
    """
    images, tokens = cls_row.shape[0], cls_row.shape[2]
    attention = cls_row.sum(1)[:, prefix:]
    rank = attention.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    kept = F.pad(rank < dominant - prefix, (prefix, 0), value=True)
    group = torch.where(kept, kept.long().cumsum(1) - 1, DROPPED)
    if contextual == 0:
        return Reduction(group)

    # Positions among the rest: the same number, and so the same targets, for every image.
    rest = (~kept).nonzero()[:, 1].view(images, tokens - dominant)
    step = max(1, rest.shape[1] // contextual)
    target = torch.arange(0, rest.shape[1], step, device=rest.device)[:contextual]
    unit = F.normalize(mean_over_heads(keys), dim=-1).take_along_dim(rest[..., None], 1)
    nearest = (unit @ unit[:, target].mT).argmax(2)
    nearest[:, target] = torch.arange(len(target), device=rest.device)

    assigned = F.one_hot(nearest, len(target)).sum(1) - 1
    share = 1 / assigned.gather(1, nearest).clamp(min=1)
    share[:, target] = 1
    group.scatter_(1, rest, dominant + nearest)
    weight = torch.ones_like(group, dtype=attention.dtype)
    weight.scatter_(1, rest, share.to(weight.dtype))
    return Reduction(group, weight)
