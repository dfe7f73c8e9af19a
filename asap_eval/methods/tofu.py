"""ToFu: Token Fusion, Bridging the Gap between Token Pruning and Token Merging (arXiv 2312.01026).

In every block, between attention and MLP, the most similar pairs are found as ToMe finds them.
Early blocks drop one of each pair; late blocks average them and keep the largest norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.matching import match, match_macs, members, removable
from asap_eval.tokens import DROPPED, Reduction

Norm = Literal["paper", "baseline"]


@register(
    "tofu",
    Card(
        paper="Token Fusion: Bridging the Gap between Token Pruning and Token Merging, "
        "arXiv 2312.01026",
        licence="none public; norm=baseline is the formula of PiToMe's authors",
        training="training-free",
        knob="k",
        knob_meaning="share of the tokens kept by each block, prefix included, 0.5 <= k <= 1",
        fixed_count=True,
        deviations="no official code: a third party's (PiToMe's authors) decided what the paper "
        "leaves open; distillation and register tokens are protected; similarities in fp32",
    ),
)
@dataclass
class ToFu(Reducer):
    """Prune in the first half of the blocks, fuse in the second; sizes play no part.

    Attributes:
        k: share of the N tokens, prefix included, that a block keeps: ``floor(N - N k)`` go.
        norm: what a fused token is: ``paper``: the plain mean, brought to the largest norm of its
            members (MLERP); ``baseline``: the plain mean times that norm over the norm of the old
            target, as in the code of PiToMe's authors, whose tables have ToFu rows of it.
    """

    k: float = 0.925
    norm: Norm = "paper"
    site = "between"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.KEYS, Need.FEATURES})

    def check(self, batch: Batch) -> None:
        if not 0.5 <= self.k <= 1:
            raise BadValueError(f"tofu: k={self.k} is a share kept: give a value in [0.5, 1].")

    def begin(self, batch: Batch) -> int:
        """L."""
        return batch.depth

    def watch(self, block: int, state: int) -> bool:
        return self.k < 1

    def _removed(self, view: View) -> int:
        tokens = view.size.shape[1]
        return removable(tokens, view.prefix, math.floor(tokens - tokens * self.k))

    def macs(self, view: View, state: int) -> int:
        tokens = view.size.shape[1]
        return match_macs(tokens, view.keys.shape[-1]) if self._removed(view) else 0

    def decide(self, view: View, state: int) -> Reduction | None:
        r = self._removed(view)
        if not r:
            return None
        group = match(view.keys, r, view.prefix)
        target = targets(group)
        if view.block - 1 <= state // 2:
            return Reduction(torch.where(target, group, DROPPED))
        return Reduction(group, fusing(view.features, group, target, self.norm, r))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 0.5, 1.0


def targets(group: Tensor) -> Tensor:
    """``[b, N]`` bool, tokens that stay themselves: all but those merged into others.

    A slot's target stands at an odd position; tokens alone in their slot are their own.
    """
    tokens = group.shape[1]
    odd = torch.arange(tokens, device=group.device) % 2 == 1
    return odd | (members(group).gather(1, group) == 1)


def fusing(x: Tensor, group: Tensor, target: Tensor, norm: Norm, r: int) -> Tensor:
    """``[b, N]`` weights of a plain mean times the largest norm of its members.

    Args:
        x: ``[b, N, D]``. group: ``[b, N]`` slots. target: ``[b, N]`` bool, one token of each slot.
        norm: what the mean's norm is divided out by: its own, or that of the target.
        r: tokens that are merged into others.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    length = wide.norm(dim=-1)
    slots = group.shape[1] - r
    count = members(group)[:, :slots]
    most = length.new_zeros(len(x), slots).scatter_reduce(1, group, length, "amax")
    if norm == "paper":
        total = wide.new_zeros(len(x), slots, x.shape[-1])
        total = total.scatter_add(1, group[..., None].expand_as(wide), wide)
        # A member's factor is largest norm / norm of the sum: the mean's count cancels.
        weight = most / total.norm(dim=-1)
    else:
        own = torch.where(target, length, 0)
        own = length.new_zeros(len(x), slots).scatter_add(1, group, own)
        weight = most / (count * own)
    return torch.where(count > 1, weight, 1.0).gather(1, group)
