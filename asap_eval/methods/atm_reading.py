"""A reading of ATM, Adaptive Token Merging (arXiv 2505.15160).

In every block, between attention and MLP, all pairs merge whose similarity reaches a threshold that
falls from block to block; late blocks pair small tokens with large ones. No code is public, and the
authors' constants are unknown: those here are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.kernels.nearest import mean_over_heads
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.tokens import DROPPED, Reduction


@register(
    "atm_reading",
    Card(
        paper="a reading of ATM, Adaptive Token Merging, arXiv 2505.15160",
        licence="none public",
        training="training-free",
        knob="k",
        knob_meaning="alpha, the first block's threshold of similarity; a larger one merges less",
        fixed_count=False,
        deviations="a reading: the authors' constants, their similarity and their rule for batches "
        "are unknown; ours are ToMe's similarity and attention, and every image by itself",
    ),
)
@dataclass
class AtmReading(Reducer):
    """Merge every pair that is similar enough; order: prefix, unmerged A, B.

    The threshold of block l is ``max(alpha - (exp(beta (l - 1)) - 1), theta_min)``. Up to block
    ``split_after`` A and B are even and odd positions; behind it the smaller and the larger half.

    Attributes:
        k: alpha. beta: how fast the threshold falls. theta_min: its least value.
        split_after: last block with alternating halves; ``None`` = L - 4.
    """

    k: float = 0.96
    beta: float = 0.02
    theta_min: float = 0.6
    split_after: int | None = None
    site = "between"
    proportional = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.KEYS})

    def check(self, batch: Batch) -> None:
        if not (math.isfinite(self.k) and math.isfinite(self.theta_min)) or not (
            0 <= self.beta < math.inf
        ):
            raise BadValueError(
                f"atm_reading: k={self.k}, beta={self.beta}, theta_min={self.theta_min}: give "
                "similarities, and a beta of at least 0."
            )
        if self.split_after is not None and not 0 <= self.split_after <= batch.depth:
            raise BadValueError(
                f"atm_reading: split_after={self.split_after}: give 0 to {batch.depth}, the last "
                "block with alternating halves."
            )

    def begin(self, batch: Batch) -> int:
        """The last block with alternating halves."""
        return batch.depth - 4 if self.split_after is None else self.split_after

    def threshold(self, block: int) -> float:
        """Of a block counted from 1."""
        return max(self.k - math.expm1(self.beta * (block - 1)), self.theta_min)

    def watch(self, block: int, state: int) -> bool:
        return self.threshold(block) <= 1

    def _half(self, view: View, state: int) -> Tensor:
        """``[b, N]`` bool, tokens of A; the other unprotected ones are B."""
        if view.block <= state:
            return alternate(view.size, view.prefix)
        return by_size(view.size, view.prefix)

    def macs(self, view: View, state: int) -> Tensor:
        own = self._half(view, state).sum(1)
        return own * (view.lengths - view.prefix - own) * view.keys.shape[-1]

    def decide(self, view: View, state: int) -> Reduction:
        half = self._half(view, state)
        theta = self.threshold(view.block)
        return Reduction(merge(mean_over_heads(view.keys), half, view.size, view.prefix, theta))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return self.theta_min, 1.0


def alternate(size: Tensor, prefix: int) -> Tensor:
    """``[b, N]`` bool, unprotected tokens at even positions; positions count the prefix."""
    place = torch.arange(size.shape[1], device=size.device)
    return (size > 0) & (place >= prefix) & (place % 2 == 0)


def by_size(size: Tensor, prefix: int) -> Tensor:
    """``[b, N]`` bool, the smaller half of the unprotected tokens; ties by position."""
    place = torch.arange(size.shape[1], device=size.device)
    free = (size > 0) & (place >= prefix)
    rank = torch.where(free, size, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    return free & (rank < free.sum(1, keepdim=True) // 2)


def merge(metric: Tensor, half: Tensor, size: Tensor, prefix: int, theta: float) -> Tensor:
    """``[b, N]`` group when each token of one half joins its nearest in the other, if near enough.

    Args:
        metric: ``[b, N, d]``. half: ``[b, N]`` bool, A. size: ``[b, N]``, 0 = padding.
    """
    place = torch.arange(size.shape[1], device=size.device)
    other = (size > 0) & (place >= prefix) & ~half
    unit = F.normalize(metric, dim=-1)
    (a, in_a), (b, in_b) = _listed(half), _listed(other)
    scores = unit.take_along_dim(a[..., None], 1) @ unit.take_along_dim(b[..., None], 1).mT
    group = torch.where(size > 0, place, DROPPED)
    if not scores.numel():
        return group
    best, partner = scores.masked_fill(~in_b[:, None], -torch.inf).max(-1)
    joins = in_a & (best >= theta)
    merged = torch.zeros_like(half).scatter(1, a, joins)  # padding of the list is behind all of A
    left, stays = half & ~merged, other.long().cumsum(1) - 1
    ahead = left.sum(1, keepdim=True)
    group = torch.where(left, prefix + left.long().cumsum(1) - 1, group)
    group = torch.where(other, prefix + ahead + stays, group)
    into = group.gather(1, b.gather(1, partner))
    goes = group.scatter(1, a, torch.where(joins, into, group.gather(1, a)))
    return torch.where(half, goes, group)


def _listed(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the tokens of a mask, ``[b, n]`` ascending, and which of them are no padding.

    Padding lists places outside the mask, each once.
    """
    order = (~mask).long().argsort(dim=1, stable=True)
    count = mask.sum(1, keepdim=True)
    longest = int(count.max())
    return order[:, :longest], torch.arange(longest, device=mask.device) < count
