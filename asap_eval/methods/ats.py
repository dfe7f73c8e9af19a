"""ATS: adaptive token sampling (arXiv 2111.15667).

Tokens are sampled by inverse transform: the significance of each patch (how much the class token
attends to it, times the length of its value vector) makes a distribution, K evenly spaced points
of its cumulative form are looked up, and the patches found, without repetition, go on. Where
significance is concentrated many points find the same patch, so easy images keep fewer tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.tokens import DROPPED, Reduction


@register(
    "ats",
    Card(
        paper="ATS: Adaptive Token Sampling for Efficient Vision Transformers, arXiv 2111.15667",
        licence="Apache-2.0",
        training="training-free",
        knob="k",
        knob_meaning="sample count K: points looked up in each block, from 2 to the patches",
        fixed_count=False,
        deviations="one named rule instead of the released code's mixture, which depends on the "
        "other images of the batch; plain softmax (the authors add 1e-6 to its terms); all prefix "
        "tokens are protected, not the class token alone; rows are dropped after the attention: "
        "its product with V and its projection run (and count) for all rows, with equal results",
    ),
)
@dataclass
class ATS(Reducer):
    """Sample the patches that go on from their significance, in each listed block.

    Attributes:
        k: sample count K; None = as many as there are patches before the first block.
        blocks: blocks that sample, counted from 0 as the authors do; None = all from 3 on.
        rule: where the cumulative significance starts. ``alone``: at the least significant patch,
            which is then never sampled (the authors' code on one image at a time). ``padded``:
            the same until the image has lost a token, at 0 afterwards (their code at constant
            length). Neither depends on the batch.
    """

    k: int | None = None
    blocks: list | None = None
    rule: Literal["alone", "padded"] = "alone"
    site = "between"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW, Need.VALUES})

    def check(self, batch: Batch) -> None:
        if self.k is not None and self.k < 2:
            raise BadValueError(f"ats: k={self.k} counts the points looked up: give at least 2.")
        self._acting(batch.depth)

    def _acting(self, depth: int) -> tuple[int, ...]:
        blocks = list(range(3, depth)) if self.blocks is None else self.blocks
        return locations(self.name, blocks, depth)

    def begin(self, batch: Batch) -> Batch:
        return batch

    def watch(self, block: int, state: Batch) -> bool:
        return block - 1 in self._acting(state.depth)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 2.0, float(batch.patches)

    def decide(self, view: View, state: Batch) -> Reduction:
        prefix = view.prefix
        score = significance(view.cls_row, view.values, prefix)
        valid = view.size[:, prefix:] > 0
        # Padding first, whatever the scores: ranks from the end are then those of the image alone.
        order = torch.where(valid, score, -1.0).argsort(dim=1, stable=True)
        padding = (~valid).sum(1)
        from_least = torch.ones_like(padding, dtype=torch.bool)
        if self.rule == "padded":
            from_least = view.lengths == state.tokens
        rising = cumulative(score.gather(1, order), padding, from_least)
        picked = sample(rising, self.k or state.patches)
        slot = torch.where(picked, prefix - 1 + picked.long().cumsum(1), DROPPED)
        front = torch.arange(prefix, device=slot.device).expand(len(slot), -1)
        return Reduction(torch.cat([front, torch.empty_like(slot).scatter_(1, order, slot)], 1))


def significance(cls_row: Tensor, values: Tensor, prefix: int) -> Tensor:
    """``[b, N - prefix]`` share of each patch; 0 for padding.

    Args:
        cls_row: ``[b, H, N]`` attention of the class token. values: ``[b, H, N, d]``.
    """
    length = values.to(cls_row.dtype).transpose(1, 2).flatten(2).norm(dim=2)
    raw = (cls_row.sum(1) * length)[:, prefix:]
    return raw / raw.sum(1, keepdim=True)


def cumulative(score: Tensor, padding: Tensor, from_least: Tensor) -> Tensor:
    """``[b, n]`` cumulative significance brought to [0, 1], fp64; 0 for padding.

    Args:
        score: ``[b, n]`` ascending after the padding. padding: ``[b]`` positions of it.
        from_least: ``[b]`` bool, whether it starts at the first patch (else at 0).
    """
    # fp64: in fp32 the sum of small scores would depend on how a device groups them.
    total = score.double().cumsum(1)
    start = torch.where(from_least[:, None], total.gather(1, padding[:, None]), 0)
    span = total[:, -1:] - start
    scaled = torch.where(span > 0, (total - start) / span, 1)  # one patch left: it is sampled
    place = torch.arange(score.shape[1], device=score.device)
    return torch.where(place >= padding[:, None], scaled, 0)


def sample(rising: Tensor, count: int) -> Tensor:
    """``[b, n]`` bool, the positions that are nearest to any of ``count`` evenly spaced points.

    Only the last ``count`` positions can be sampled; of two equally near ones the first is.

    Args:
        rising: ``[b, n]`` from `cumulative`; the points lie between its least value > 0 and 1.
    """
    points = sampling_points(rising, count)
    window = rising[:, -count:].contiguous()
    after = torch.searchsorted(window, points).clamp(max=window.shape[1] - 1)
    before = (after - 1).clamp(min=0)
    nearer = points - window.gather(1, before) <= window.gather(1, after) - points
    found = torch.where(nearer, before, after) + rising.shape[1] - window.shape[1]
    return torch.zeros_like(rising, dtype=torch.bool).scatter_(1, found, True)


def sampling_points(rising: Tensor, count: int) -> Tensor:
    """``[b, count]`` evenly spaced from the least value > 0 of ``rising`` to 1."""
    least = torch.where(rising > 0, rising, 1).amin(1, keepdim=True)
    step = torch.arange(count, device=rising.device, dtype=rising.dtype) / (count - 1)
    return least + (1 - least) * step
