"""MCTF: Multi-criteria Token Fusion with One-step-ahead Attention (Lee et al., arXiv 2403.10030).

In most blocks tokens are fused by similarity, by how little they are attended to and by size, after
the block's softmax and before its values: the attention of the fused tokens is fused with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, Site, View, register
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.methods.parts.matching import match_macs, members
from asap_eval.methods.parts.schedule import mixed
from asap_eval.tokens import Reduction

FLOOR = 10
"""Tokens that a fixed r leaves at least, as in the authors' code."""


@register(
    "mctf",
    Card(
        paper="Multi-criteria Token Fusion with One-step-ahead Attention for Efficient Vision "
        "Transformers, arXiv 2403.10030",
        licence="MIT",
        training="training-free use; the authors fine-tune the backbone with it",
        knob="r",
        knob_meaning="tokens fused away in each acting block; below 1 a share of the patches there",
        fixed_count=True,
        deviations="untrained; distillation and register tokens are protected (theirs protects a "
        "wrong one); element-wise maximum and plain mean as pooling are not offered; r between two "
        "whole numbers is a mixed schedule (ours)",
        counts_more="queries, keys and products of the tokens fused away, which the host makes",
    ),
)
@dataclass
class Mctf(Reducer):
    """Fuse pairs in two directions; order: what is left of even positions, then of odd ones.

    Even positions (A) look for partners at odd ones (B); the best are fused into B. Then B looks
    among what is left of A with the same scores, and the best are fused into A. A score is the
    product of similarity, uninformativeness (inverse attention received) and inverse size, each
    with its own root.

    Attributes:
        r: tokens to remove; at most half of the patches, and ten tokens stay. From 1 on a fraction
            gives ``n + 1`` in the first acting blocks and ``n`` in the others.
        blocks: acting blocks, counted from 0 as the authors do; ``None`` = all but the first.
        ahead: ``fused``: the block's own attention is fused (one-step-ahead attention);
            ``precise``: it is computed anew from the fused tokens; ``none``: tokens are fused
            behind the block.
        tau_sim, tau_info, tau_size: roots of the three criteria.
        both: whether B looks for partners in A too.
        pool: weight of a token in a fusion: attention received times size, or size alone.
    """

    r: float = 16.0
    blocks: list | None = None
    ahead: Literal["fused", "precise", "none"] = "fused"
    tau_sim: float = 1.0
    tau_info: float = 20.0
    tau_size: float = 40.0
    both: bool = True
    pool: Literal["attention", "size"] = "attention"
    proportional = True

    @property
    def site(self) -> Site:  # type: ignore[override]
        return "after" if self.ahead == "none" else "inside"

    @property
    def fuses(self) -> bool:  # type: ignore[override]
        return self.ahead == "fused"

    @property
    def needs(self) -> frozenset[Need]:
        maps = Need.ATTENTION if self.ahead == "none" else Need.HEAD_ATTENTION
        return frozenset({maps, Need.FEATURES})

    def check(self, batch: Batch) -> None:
        if not 0 <= self.r < math.inf or min(self.tau_sim, self.tau_info, self.tau_size) <= 0:
            raise BadValueError(
                f"mctf: r={self.r}, tau_sim={self.tau_sim}, tau_info={self.tau_info}, "
                f"tau_size={self.tau_size}: give an r from 0 and roots greater than 0."
            )
        self._acting(batch.depth)

    def _acting(self, depth: int) -> tuple[int, ...]:
        blocks = list(range(1, depth)) if self.blocks is None else self.blocks
        return locations(self.name, blocks, depth)

    def begin(self, batch: Batch) -> dict[int, float]:
        """r of each acting block, counted from 1."""
        acting = [at + 1 for at in self._acting(batch.depth)]
        if self.r < 1:
            return dict.fromkeys(acting, self.r)
        return dict(zip(acting, mixed(self.r, len(acting)), strict=True))

    def watch(self, block: int, state: dict[int, float]) -> bool:
        return state.get(block, 0) > 0

    def _removed(self, view: View, state: dict[int, float]) -> int:
        tokens, patches = view.size.shape[1], view.size.shape[1] - view.prefix
        wanted = state[view.block]
        r = int(patches * wanted) if wanted < 1 else min(int(wanted), max(0, tokens - FLOOR))
        return min(r, patches // 2)

    def macs(self, view: View, state: dict[int, float]) -> int:
        """Similarities, and the queries, keys and products of the tokens that are fused away."""
        tokens, width, r = view.size.shape[1], view.features.shape[-1], self._removed(view, state)
        if not r:
            return 0
        own = match_macs(tokens, width)
        if self.ahead == "none":
            return own
        gone = tokens - r if self.ahead == "fused" else 0
        return own + 2 * (tokens - gone) * width**2 + (tokens**2 - gone**2) * width

    def decide(self, view: View, state: dict[int, float]) -> Reduction | None:
        r = self._removed(view, state)
        if not r:
            return None
        maps = view.attention if self.ahead == "none" else view.head_attention.mean(1)
        received = maps.mean(1)
        roots = (self.tau_sim, self.tau_info, self.tau_size)
        scores = criteria(view.features, received, view.size, roots, view.prefix)
        group = pairs(scores, r, view.prefix, self.both)
        weight = view.size / view.size.amax(1, keepdim=True)
        if self.pool == "attention":
            weight = weight * received
        total = torch.zeros_like(weight).scatter_add(1, group, weight)
        return Reduction(group, alone(group, weight / total.gather(1, group)))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1.0, batch.patches / 2


def criteria(
    x: Tensor, received: Tensor, size: Tensor, roots: tuple[float, float, float], prefix: int
) -> Tensor:
    """``[b, |A|, |B|]`` scores of pairs; those of protected tokens are -inf.

    Args:
        x: ``[b, N, D]`` tokens, un-normed. received: ``[b, N]`` mean of each attention column.
        size: ``[b, N]``. roots: of similarity, uninformativeness and inverse size.
    """
    unit = F.normalize(x.to(received.dtype), dim=-1)
    scores = ((unit[:, 0::2] @ unit[:, 1::2].mT + 1) / 2) ** (1 / roots[0])
    for values, root in ((received, roots[1]), (size.to(received.dtype), roots[2])):
        inverse = values.amin(1, keepdim=True) / values
        scores = scores * (inverse[:, 0::2, None] * inverse[:, None, 1::2]) ** (1 / root)
    even, odd = (prefix + 1) // 2, prefix // 2
    place_a = torch.arange(scores.shape[1], device=x.device)[:, None]
    place_b = torch.arange(scores.shape[2], device=x.device)
    return scores.masked_fill((place_a < even) | (place_b < odd), -torch.inf)


def pairs(scores: Tensor, r: int, prefix: int, both: bool) -> Tensor:
    """``[b, N]`` slots when r tokens are fused: prefix, what is left of A, what is left of B.

    A keeps its order. B keeps it where it only receives; otherwise it stands by falling score with
    what is left of A, its protected tokens in front.
    """
    images, count_a, count_b = scores.shape
    tokens, device = count_a + count_b, scores.device
    even, odd = (prefix + 1) // 2, prefix // 2
    first = r // 2 if both else r
    best, partner = scores.max(-1)
    order = best.argsort(dim=1, descending=True, stable=True)
    merged = order[:, :first]
    left = order[:, first:].sort(dim=1).values
    back, ranked = None, torch.arange(odd, count_b, device=device).expand(images, -1)
    if both:
        back, host = scores.take_along_dim(left[..., None], 1).max(1)
        ranked = odd + back[:, odd:].argsort(dim=1, descending=True, stable=True)
    second = r - first
    stay = ranked[:, second:]

    # Slots of the tokens that stay: the prefix, A, B.
    slot_a = torch.empty(images, count_a, dtype=torch.long, device=device)
    place = torch.arange(tokens, device=device)
    kept_a = left.shape[1] - even
    of_left = torch.cat([place[0:prefix:2], prefix + place[:kept_a]])
    slot_a.scatter_(1, left, of_left.expand(images, -1))
    slot_b = torch.empty(images, count_b, dtype=torch.long, device=device)
    slot_b[:, :odd] = place[1:prefix:2]
    slot_b.scatter_(1, stay, (prefix + kept_a + place[: stay.shape[1]]).expand(images, -1))
    if both:
        gone = ranked[:, :second]
        slot_b.scatter_(1, gone, slot_a.gather(1, left.gather(1, host.gather(1, gone))))
    slot_a.scatter_(1, merged, slot_b.gather(1, partner.gather(1, merged)))
    group = torch.empty(images, tokens, dtype=torch.long, device=device)
    group[:, 0::2], group[:, 1::2] = slot_a, slot_b
    return group


def alone(group: Tensor, weight: Tensor) -> Tensor:
    """The same weights, exactly 1 where a token is alone in its slot."""
    return torch.where(members(group).gather(1, group) == 1, 1.0, weight)
