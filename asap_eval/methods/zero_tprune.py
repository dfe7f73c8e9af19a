"""Zero-TPrune: token pruning through the attention graph (arXiv 2305.17328), a reading of it.

A page rank on each head's attention says how important a token is. After a few layers, the less
important half of the patches loses those that another patch resembles most (S), and of the rest the
most important share goes on (I).

No authors' code is public. This is our reading of the method's description; what it leaves open is
an option here, recorded with every result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.tokens import Reduction

HeadFilter = Literal["scaled", "raw", "off"]


@register(
    "zero_tprune",
    Card(
        paper="Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph, "
        "arXiv 2305.17328",
        licence="none public",
        training="training-free; layers, rates and iterations come from a search on images",
        knob="k",
        knob_meaning="one factor on every rate below 1; smaller prunes more",
        fixed_count=True,
        deviations="our reading: no authors' code; order of the stages, scale of the head filter, "
        "start of the page rank and keys as similarity are options or choices of ours; the default "
        "layers, rates and iterations are one configuration quoted for 12 blocks; rates are scaled "
        "by one factor instead of searched",
    ),
)
@dataclass
class ZeroTPrune(Reducer):
    """Prune patches by importance and similarity after the listed layers.

    Attributes:
        k: factor on every rate below 1 (at most 1 after it); a rate of 1 prunes by similarity only.
        after: layers after which patches are pruned, counted from 1.
        rates: share of the patches that importance keeps there (of those similarity left).
        iterations: page rank steps there.
        similar: patches that similarity prunes at each of them, at most half; 0 = no such stage.
        cls_start: start of the page rank: all tokens alike (``uniform``), or the class token
            sqrt(N) times the others (``sqrt``).
        head_filter: heads whose variance of scores over tokens lies outside [v_min, v_max] are
            ignored; where none is inside, all count. The variance of N x score (``scaled``; its
            mean is 1), of the score itself (``raw``: from 100 tokens on too small for the bounds,
            whose scale the description leaves out), or no filter (``off``).
        v_min, v_max: those bounds.
    """

    k: float = 1.0
    after: list | tuple = (1, 3, 6, 9, 11)
    rates: list | tuple = (1.0, 0.9, 0.8, 0.7, 1.0)
    iterations: list | tuple = (30, 5, 5, 1, 1)
    similar: int = 10
    cls_start: Literal["uniform", "sqrt"] = "uniform"
    head_filter: HeadFilter = "scaled"
    v_min: float = 0.01
    v_max: float = 0.7

    @property
    def needs(self) -> frozenset[Need]:
        keys = {Need.KEYS} if self.similar else set()
        return frozenset({Need.HEAD_ATTENTION} | keys)

    @property
    def requires_cls(self) -> bool:
        return self.cls_start == "sqrt"

    def check(self, batch: Batch) -> None:
        if not (self.k > 0 and math.isfinite(self.k)):
            raise BadValueError(f"zero_tprune: k={self.k} is a factor: give a positive number.")
        if not len(self.after) == len(self.rates) == len(self.iterations):
            raise BadValueError(
                f"zero_tprune: after={list(self.after)}, rates={list(self.rates)} and "
                f"iterations={list(self.iterations)} must have one entry for each layer."
            )
        if any(type(n) is not int or not 1 <= n <= batch.depth for n in self.after):
            raise BadValueError(
                f"zero_tprune: after={list(self.after)}: this model has layers 1 to {batch.depth}. "
                "The default belongs to 12; give after, rates and iterations for another depth."
            )
        if any(not 0 < rate <= 1 for rate in self.rates):
            raise BadValueError(f"zero_tprune: rates={list(self.rates)} are shares in (0, 1].")
        if any(type(n) is not int or n < 1 for n in self.iterations) or self.similar < 0:
            raise BadValueError(
                f"zero_tprune: iterations={list(self.iterations)} are whole numbers from 1, "
                f"similar={self.similar} is one from 0."
            )

    def begin(self, batch: Batch) -> dict[int, tuple[float, int]]:
        """Rate and page rank steps by block."""
        rates = [min(1.0, self.k * rate) if rate < 1 else 1.0 for rate in self.rates]
        return dict(zip(self.after, zip(rates, self.iterations, strict=True), strict=True))

    def watch(self, block: int, state: dict[int, tuple[float, int]]) -> bool:
        return block in state and (state[block][0] < 1 or self.similar > 0)

    def macs(self, view: View, state: dict[int, tuple[float, int]]) -> int:
        heads, tokens = view.head_attention.shape[1:3]
        ranking = state[view.block][1] * heads * tokens**2
        if not self.similar:
            return ranking
        patches = tokens - view.prefix
        return ranking + (patches // 2) * (patches - patches // 2) * view.keys.shape[-1]

    def decide(self, view: View, state: dict[int, tuple[float, int]]) -> Reduction:
        rate, steps = state[view.block]
        ranks = page_rank(view.head_attention, steps, self.cls_start == "sqrt")
        heads = heads_inside(ranks, self.head_filter, self.v_min, self.v_max)
        score = importance(ranks, heads)[:, view.prefix :]
        keep = torch.ones_like(score, dtype=torch.bool)
        if self.similar:
            keys = view.keys.to(score.dtype).mean(1)[:, view.prefix :]
            keep = ~most_similar(score, keys, self.similar)
        left = int(keep[0].sum())
        rank = score.masked_fill(~keep, -1).argsort(dim=1, descending=True, stable=True).argsort(1)
        keep &= rank < math.ceil(rate * left)
        front = torch.ones_like(keep[:, :1]).expand(-1, view.prefix)
        return Reduction.keep(torch.cat([front, keep], 1))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1 / batch.patches, 1 / min(self.rates)


def page_rank(attention: Tensor, steps: int, heavy_cls: bool = False) -> Tensor:
    """``[b, H, N]`` scores that sum to 1 over the tokens of each head: tokens that important tokens
    attend to are important.

    Args:
        attention: ``[b, H, N, N]``, queries in rows. heavy_cls: token 0 starts sqrt(N) times as
            heavy as the others.
    """
    tokens = attention.shape[-1]
    score = torch.ones_like(attention[..., :1, :])
    if heavy_cls:
        score[..., 0] = tokens**0.5
    score = score / score.sum(-1, keepdim=True)
    for _ in range(steps):
        score = score @ attention
    return score[..., 0, :]


def heads_inside(ranks: Tensor, scale: HeadFilter, low: float, high: float) -> Tensor:
    """``[b, H]`` bool, heads whose variance over the tokens lies in [low, high]; all where none is.

    Args:
        ranks: ``[b, H, N]`` from `page_rank`, each head's sum is 1.
    """
    if scale == "off":
        return torch.ones_like(ranks[..., 0], dtype=torch.bool)
    scores = ranks * ranks.shape[-1] if scale == "scaled" else ranks
    variance = scores.var(-1, unbiased=False)
    inside = (variance >= low) & (variance <= high)
    return inside | ~inside.any(1, keepdim=True)


def importance(ranks: Tensor, heads: Tensor) -> Tensor:
    """``[b, N]`` root mean square over the heads that count (``[b, H]`` bool)."""
    squares = ranks.square() * heads[..., None]
    return (squares.sum(1) / heads.sum(1, keepdim=True)).sqrt()


def most_similar(score: Tensor, keys: Tensor, count: int) -> Tensor:
    """``[b, n]`` bool, patches of the less important half that most resemble one of the other half.

    Args:
        score: ``[b, n]`` importance. keys: ``[b, n, d]``. count: how many, at most half of n.
    """
    order = score.argsort(dim=1, stable=True)
    less, more = order.tensor_split([score.shape[1] // 2], dim=1)
    direction = torch.nn.functional.normalize(keys, dim=2)
    rows, columns = (
        direction.gather(1, half[..., None].expand(-1, -1, keys.shape[2])) for half in (less, more)
    )
    best = (rows @ columns.mT).amax(2)
    pruned = less.gather(1, best.topk(min(count, less.shape[1]), dim=1).indices)
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, pruned, True)
