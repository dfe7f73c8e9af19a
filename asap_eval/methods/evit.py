"""EViT: Not All Patches are What You Need, Expediting ViTs via Token Reorganizations
(Liang et al., arXiv 2202.07800).

In three blocks the patches that the class token attends to most are kept, and the others are fused
into one token, weighted by that attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.tokens import DROPPED, Reduction


@register(
    "evit",
    Card(
        paper="EViT: Not All Patches are What You Need, arXiv 2202.07800",
        licence="see repository youweiliang/evit",
        training="training-free use; the authors' accuracies are after training",
        knob="k",
        knob_meaning="share of the tokens kept in each acting block, 0 < k <= 1",
        fixed_count=True,
        deviations="used without the authors' training; distillation and register tokens are "
        "protected (theirs treats them as patches)",
    ),
)
@dataclass
class Evit(Reducer):
    """Keep the most attended tokens, in the order of falling attention; fuse the rest.

    A fused token comes last and is an ordinary token of the next acting block. Its weights are
    the attentions themselves: they sum to less than 1 and are not normalised. The method has no
    products of its own: the class token's row is part of the model's attention.

    Differences from the authors' code: distillation and register tokens are protected and do not
    count in the share (theirs treats them as patches). The authors train with the rule; here it is
    applied as it is, which costs more accuracy.

    Attributes:
        k: share kept in each acting block: ``ceil(k n)`` of the n tokens behind the prefix.
        blocks: acting blocks, counted from 0 as the authors do (their block 3 is block 4 of a
            trace); ``None`` = at L/4, L/2 and 3L/4: 3, 6, 9 of 12.
        fuse: whether the others become one token; otherwise they are dropped.
    """

    k: float = 0.7
    blocks: list | None = None
    fuse: bool = True
    site = "between"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW})

    def check(self, batch: Batch) -> None:
        if not 0 < self.k <= 1:
            raise BadValueError(f"evit: k={self.k} is a share: give a value in (0, 1].")
        locations(self.name, self.blocks, batch.depth)

    def begin(self, batch: Batch) -> tuple[int, ...]:
        return locations(self.name, self.blocks, batch.depth)

    def watch(self, block: int, state: tuple[int, ...]) -> bool:
        return block - 1 in state

    def decide(self, view: View, state: tuple[int, ...]) -> Reduction | None:
        patches = view.size.shape[1] - view.prefix
        keep = math.ceil(self.k * patches)
        if keep == patches:
            return None
        return reorganise(attentiveness(view.cls_row, view.prefix), keep, view.prefix, self.fuse)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1 / batch.patches, 1.0


def attentiveness(cls_row: Tensor, prefix: int) -> Tensor:
    """``[b, n]`` the class token's attention to the n tokens behind the prefix, mean over heads."""
    return cls_row.mean(1)[:, prefix:]


def reorganise(attention: Tensor, keep: int, prefix: int, fuse: bool) -> Reduction:
    """The ``keep`` most attended tokens by falling attention, and with ``fuse`` one of the rest.

    Args:
        attention: ``[b, n]`` of the tokens behind the prefix; the fused token's weights.
    """
    rank = attention.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    kept = rank < keep
    place = torch.where(kept, prefix + rank, prefix + keep if fuse else DROPPED)
    weight = torch.where(kept, 1, attention)
    front = torch.arange(prefix, device=place.device).expand(len(place), -1)
    return Reduction(
        torch.cat([front, place], 1),
        torch.cat([torch.ones_like(front, dtype=weight.dtype), weight], 1),
        acted=torch.ones(len(place), dtype=torch.bool, device=place.device),
    )
