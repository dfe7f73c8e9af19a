"""PPT: Token Pruning and Pooling for Efficient Vision Transformers (Wu et al., arXiv 2310.01812).

In three blocks each image is reduced by r tokens: where the significance of its tokens varies much
the least significant are pruned, otherwise the most similar pairs are merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.methods.parts.matching import match, match_macs, removable
from asap_eval.tokens import DROPPED, Reduction


@dataclass
class Policy:
    """State of one forward pass.

    Attributes:
        blocks: acting blocks from 0. seen: block (from 1) that ``scores [b, n]`` belongs to.
    """

    blocks: tuple[int, ...]
    seen: int = 0
    scores: Tensor | None = None


@register(
    "ppt",
    Card(
        paper="PPT: Token Pruning and Pooling for Efficient Vision Transformers, arXiv 2310.01812",
        licence="see repository xjwu1024/PPT",
        training="training-free (the authors also fine-tune)",
        knob="r",
        knob_meaning="tokens removed in each acting block, whole number >= 0",
        fixed_count=True,
        deviations="distillation and register tokens are protected (theirs prunes them); "
        "similarities and scores in fp32; a zero key has similarity 0 instead of NaN; a mixed "
        "batch runs once; r is one number for all acting blocks",
    ),
)
@dataclass
class Ppt(Reducer):
    """Prune or pool each image, whichever its own scores suggest.

    The score of a token is the class token's attention to it, summed over heads, times the norm of
    its value, brought to sum 1 over the tokens that are not prefix. Pruned images end up in the
    order of falling score, pooled ones in ToMe's. Attention is proportional throughout.

    Differences from the authors' code: distillation and register tokens are protected and take no
    part in scores, variance or the limit on r (theirs prunes them as patches); scores and
    similarities are fp32 whatever the model runs in (theirs fails on mixed batches in 16 bit); a
    zero key has similarity 0 with all; both kinds of images go through the rest of the block
    together; a list of r is not offered.

    Attributes:
        r: tokens removed in each acting block, at most half of those not protected.
        blocks: acting blocks, counted from 0 as the authors do (their block 3 is block 4 of a
            trace); ``None`` = at L/4, L/2 and 3L/4: 3, 6, 9 of 12.
        threshold: an image is pooled where the unbiased variance of its scores is below; 0 = always
            prune. The authors' 7e-5 belongs to 197 tokens: variances scale like 1 / N^2.
    """

    r: int = 50
    blocks: list | None = None
    threshold: float = 7e-5
    site = "between"
    proportional = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW, Need.VALUES, Need.KEYS})

    def check(self, batch: Batch) -> None:
        if self.r < 0:
            raise BadValueError(f"ppt: r={self.r}: give a number of tokens, 0 or more.")
        if not self.threshold >= 0:
            raise BadValueError(f"ppt: threshold={self.threshold}: give a variance, 0 or more.")
        locations(self.name, self.blocks, batch.depth)

    def begin(self, batch: Batch) -> Policy:
        return Policy(locations(self.name, self.blocks, batch.depth))

    def watch(self, block: int, state: Policy) -> bool:
        return self.r > 0 and block - 1 in state.blocks

    def _scores(self, view: View, state: Policy) -> Tensor:
        """``[b, n]`` significance; read once though both `macs` and `decide` need it."""
        if state.scores is None or state.seen != view.block:
            state.scores = significance(view.cls_row, view.values, view.prefix)
            state.seen = view.block
        return state.scores

    def macs(self, view: View, state: Policy) -> Tensor:
        """The similarities of pooled images. The class token's attention is part of the model."""
        tokens = view.size.shape[1]
        if not removable(tokens, view.prefix, self.r):
            return torch.zeros_like(view.images)
        pooled = self._scores(view, state).var(1) < self.threshold
        return pooled * match_macs(tokens, view.keys.shape[-1])

    def decide(self, view: View, state: Policy) -> Reduction | None:
        r = removable(view.size.shape[1], view.prefix, self.r)
        if not r:
            return None
        scores = self._scores(view, state)
        group = prune(scores, r, view.prefix)
        pooled = scores.var(1) < self.threshold
        if bool(pooled.any()):
            group[pooled] = match(view.keys[pooled], r, view.prefix)
        return Reduction(group)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 0, batch.patches // 2


def significance(cls_row: Tensor, values: Tensor, prefix: int) -> Tensor:
    """``[b, n]`` scores that sum to 1, of the n tokens behind the prefix.

    Args:
        cls_row: ``[b, H, N]`` attention of the class token. values: ``[b, H, N, d]``.
    """
    norm = torch.linalg.vector_norm(values, dim=(1, 3), dtype=cls_row.dtype)
    score = (cls_row.sum(1) * norm)[:, prefix:]
    return score / score.sum(1, keepdim=True)


def prune(scores: Tensor, r: int, prefix: int) -> Tensor:
    """``[b, N]`` group: the prefix, then all but the ``r`` lowest in the order of falling score."""
    images, patches = scores.shape
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    front = torch.arange(prefix, device=scores.device).expand(images, -1)
    return torch.cat([front, torch.where(rank < patches - r, prefix + rank, DROPPED)], 1)
