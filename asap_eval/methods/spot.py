"""A SPOT-style predictor, ours (after SPOT, arXiv 2511.10488).

Before a few blocks a light network says of every patch whether it is worth keeping, from the patch
itself, beside the mean of all patches, and from how it attended and was attended to in the blocks
just before. The authors' code is not retrievable; what their text leaves open is an option here.
Such predictors exist only where `asap-eval train` made them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, View, register
from asap_eval.methods.parts.learned import Learned, Stages
from asap_eval.methods.parts.predictors import Inputs, Predictor

STATISTICS = 6
"""Values of a patch for each head and block: see `attention_statistics`."""


@register(
    "spot",
    Card(
        paper="SPOT-style predictor (ours), after SPOT, arXiv 2511.10488",
        licence="none retrievable",
        training="trained: predictors by `asap-eval train` on a frozen backbone",
        knob="k",
        knob_meaning="keep rate: int(n k^i) of n patches go on from the i-th place, 0 < k <= 1",
        fixed_count=True,
        deviations="not the authors' method: their code and weights are not retrievable. Blocks, "
        "history, widths and depth of the network are unknown and options of ours; that an "
        "embedding is projected and split into a local and a global half is said of theirs; "
        "statistics enter as "
        "standard scores over the patches of the image; kept patches keep their order; the "
        "backbone is not trained with the predictors, as theirs is",
    ),
)
@dataclass
class Spot(Learned):
    """Keep the patches with the highest scores of a SPOT-style predictor, in their order.

    Before a block is after the one in front of it, whose attention this method reads; so it acts
    there, and ``fired`` names that block. MACs: the predictor's linear layers; statistics are sums
    and not counted.

    Attributes (and those of `Learned`; blocks count from 0 as DynamicViT's, the paper's are
    unknown):
        history: blocks whose attention a predictor reads: the latest and those before it.
        hidden: width of the network's first layer in training, the second has half of it; None =
            half of the model's width. A checkpoint brings its own.
        remap: width that a patch is projected to, an even number: one half is its own, the other
            becomes the mean over all patches; None = the model's width. A checkpoint brings its
            own.
    """

    history: int = 2
    hidden: int | None = None
    remap: int | None = None
    site = "after"
    reads = "features + statistics (6 of each head and block of the history)"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FEATURES, Need.HEAD_ATTENTION})

    @property
    def requires_cls(self) -> bool:
        return True

    def check_options(self, batch: Batch) -> None:
        super().check_options(batch)
        places = self.places(batch.depth)
        if self.history < 1 or any(at < self.history for at in places):
            raise BadValueError(
                f"spot: history={self.history} blocks have to lie before each of "
                f"blocks={list(places)}, counted from 0: give a history from 1 to "
                f"{min(places, default=1)}, or later blocks."
            )
        if self.hidden is not None and self.hidden < 2:
            raise BadValueError(f"spot: hidden={self.hidden}: give a width of at least 2.")
        if self.remap is not None and (self.remap < 2 or self.remap % 2):
            raise BadValueError(f"spot: remap={self.remap}: give an even width of at least 2.")

    def watch(self, block: int, state: Stages) -> bool:
        return self.k < 1 and any(0 <= at - block < self.history for at in state.keep)

    def inputs(self, view: View, state: Stages) -> Inputs | None:
        weight = view.size[:, view.prefix :]
        # Observations: in training no gradient runs through them into earlier decisions, where
        # the deviation of a single patch left, 0, would make it boundless.
        maps = view.head_attention.detach()
        statistics = attention_statistics(maps, view.prefix, weight.detach())
        # Of each block only these are kept: maps of several blocks would not fit in memory.
        state.seen = [*state.seen, statistics][-self.history :]
        if self.place(view.block) not in state.keep:
            return None
        dynamics = torch.cat(state.seen, -1)
        return weight, view.features[:, view.prefix :].float(), dynamics.float()

    def untrained(self, inputs: Inputs) -> Predictor:
        _, patches, statistics = inputs
        width = patches.shape[-1]
        hidden = self.hidden or max(2, width // 2)
        remap = self.remap or 2 * (width // 2)
        return RelevancePredictor(width, statistics.shape[-1], hidden, remap)

    @staticmethod
    def restored(state: Mapping[str, Tensor]) -> Predictor:
        (remap, width), (hidden, values) = (
            state["remap.weight"].shape,
            state["layers.0.weight"].shape,
        )
        return RelevancePredictor(width, values - remap, hidden, remap)


class RelevancePredictor(Predictor):
    """Three linear layers on a patch's features and those of all, beside its normed statistics."""

    def __init__(self, width: int, statistics: int, hidden: int, remap: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.remap = nn.Linear(width, remap)
        self.layers = nn.Sequential(
            nn.Linear(remap + statistics, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden // 2),
            nn.GELU(),
            nn.Linear(hidden // 2, 2),
            nn.LogSoftmax(dim=-1),
        )
        self.sizes = (width, statistics)

    def forward(self, weight: Tensor, patches: Tensor, statistics: Tensor) -> Tensor:
        """``[b, P, 2]`` from ``[b, P]``, features ``[b, P, D]`` and statistics ``[b, P, S]``."""
        scores = standard_scores(statistics, weight.detach())
        local, other = self.remap(self.norm(patches)).chunk(2, -1)
        share = weight / weight.sum(1, keepdim=True).clamp(min=1)
        all_ = (other * share[..., None]).sum(1, keepdim=True).expand_as(other)
        return self.layers(torch.cat([local, all_, scores], -1))


def attention_statistics(maps: Tensor, prefix: int, weight: Tensor) -> Tensor:
    """How every patch attends and is attended to.

    Per head: class token -> patch, patch -> class token, mean and population variance of its row
    and of its column in the patch-patch block.

    Args:
        maps: ``[b, H, N, N]``, queries in rows. prefix: prefix tokens; the first is the class
            token, the others are left out.
        weight: ``[b, P]`` 1, or 0 for patches that do not count (masked in training).

    Returns:
        ``[b, P, 6H]``, the six values of head 0 first.
    """
    share = (weight / weight.sum(1, keepdim=True).clamp(min=1)).to(maps.dtype)
    # Head after head: what a variance needs in between is as large as the maps themselves.
    return torch.cat([_of_head(maps[:, head], prefix, share) for head in range(maps.shape[1])], -1)


def _of_head(maps: Tensor, prefix: int, share: Tensor) -> Tensor:
    """``[b, P, 6]`` from maps ``[b, N, N]`` and the share of each patch in a mean ``[b, P]``."""
    block = maps[:, prefix:, prefix:]
    over_columns, over_rows = share[:, None, :], share[:, :, None]
    row, column = (block * over_columns).sum(2), (block * over_rows).sum(1)
    row_variance = ((block - row[:, :, None]).square() * over_columns).sum(2)
    column_variance = ((block - column[:, None, :]).square() * over_rows).sum(1)
    of_cls, to_cls = maps[:, 0, prefix:], maps[:, prefix:, 0]
    return torch.stack([of_cls, to_cls, row, row_variance, column, column_variance], -1)


def standard_scores(values: Tensor, weight: Tensor) -> Tensor:
    """``[b, P, S]`` values over the patches of each image: mean 0, deviation 1.

    Attention weights shrink with the number of tokens; what they mean is how patches compare.
    Where they differ by rounding alone they stay near 0.
    """
    share = (weight / weight.sum(1, keepdim=True).clamp(min=1))[..., None].to(values.dtype)
    mean = (values * share).sum(1, keepdim=True)
    variance = ((values - mean).square() * share).sum(1, keepdim=True)
    floor = 1e-4 * mean.abs() + 1e-12
    # Those of masked patches decide nothing, and could be out of all proportion.
    there = (weight > 0)[..., None]
    return torch.where(there, (values - mean) / torch.maximum(variance.sqrt(), floor), 0)
