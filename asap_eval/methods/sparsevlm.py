"""SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference (Zhang et
al., arXiv 2410.04417), version 1.5 of the authors' code.

Words of the prompt that fit the image best judge its tokens: in three layers of the language model
the image tokens they attend to most go on, and some of the others are clustered into a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.tokens import DROPPED, Reduction, reduce_run

KEEP = {192: [300, 200, 110], 128: [303, 110, 36], 96: [238, 48, 26], 64: [66, 30, 17]}
"""The authors' tokens kept in each acting layer, by the mean number of tokens over 32 layers."""

CENTRE_NOISE = 1e-6
"""The authors break ties of the density with uniform noise below this."""


@dataclass
class Judges:
    """State of one forward pass.

    Attributes:
        batch: the batch. keep: tokens kept, by acting layer from 0.
        behind: ``[B, R]`` raters of each sample, counted from its end (1 = last token); 0 = none.
    """

    batch: Batch
    keep: dict[int, int]
    behind: Tensor


@register(
    "sparsevlm",
    Card(
        paper="SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model "
        "Inference, arXiv 2410.04417",
        licence="see repository Gumpest/SparseVLMs",
        training="training-free",
        knob="k",
        knob_meaning="64, 96, 128 or 192: mean number of image tokens over 32 layers that the "
        "authors' list of that name gives; other counts through method.keep",
        fixed_count=True,
        deviations="version 1.5; no noise on densities by default (theirs answers differently from "
        "run to run); where no word stands out (a prompt of one) all words judge",
        counts_more="distances of the recycled tokens",
    ),
)
@dataclass
class SparseVLM(Reducer):
    """Prune image tokens by the attention of a few words, and cluster some of the pruned ones.

    In each acting layer the authors' number of tokens is kept, in order; behind them come the
    clusters' means. Position ids count from 0 again in every layer, in decoding too. The acting
    layer itself runs at the old length.

    Attributes:
        k: which of the authors' lists.
        keep: tokens kept in each acting layer, instead of a list of theirs.
        layers: acting layers, counted from 0 as the authors do.
        noise: uniform noise below 1e-6 on densities, as theirs, from the seed and the sample.
    """

    k: int = 64
    keep: list | None = None
    layers: list | None = None
    noise: bool = False
    tower = "language"
    positions = "renumbered"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ROWS, Need.FEATURES})

    def _schedule(self, depth: int) -> dict[int, int]:
        """Tokens kept by acting layer, from 0."""
        layers = [2, 6, 15] if self.layers is None else self.layers
        keep = KEEP.get(self.k) if self.keep is None else self.keep
        if keep is None:
            known = ", ".join(map(str, sorted(KEEP)))
            raise BadValueError(
                f"sparsevlm: k={self.k} has no list; there are {known}. Give one, or method.keep: "
                "the tokens kept in each acting layer."
            )
        if len(keep) != len(layers) or not all(type(n) is int and n >= 1 for n in keep):
            raise BadValueError(
                f"sparsevlm: keep={keep} for layers={layers}: give one number >= 1 for each layer."
            )
        acting = locations(self.name, layers, depth)
        return dict(zip(acting, [keep[layers.index(layer)] for layer in acting], strict=True))

    def check(self, batch: Batch) -> None:
        self._schedule(batch.depth)

    def begin(self, batch: Batch) -> Judges:
        prompt = batch.prompt
        assert prompt is not None  # a host runs a language method on prompts alone
        behind = []
        for sample, (length, start, count) in enumerate(
            zip(*(t.tolist() for t in (prompt.lengths, prompt.start, prompt.count)), strict=True)
        ):
            embeds = prompt.embeds[sample, start:length]
            chosen, _ = raters(embeds[:count], embeds[count:])
            behind.append(len(chosen) - chosen.nonzero().flatten())
        padded = torch.nn.utils.rnn.pad_sequence(behind, batch_first=True)
        return Judges(batch, self._schedule(batch.depth), padded)

    def watch(self, block: int, state: Judges) -> bool:
        return block - 1 in state.keep

    def rows(self, block: int, lengths: Tensor, state: Judges) -> Tensor:
        return torch.where(state.behind > 0, lengths[:, None] - state.behind, -1)

    def decide(self, view: View, state: Judges) -> Reduction | None:
        judges = (state.behind > 0).sum(1)
        scores = view.rows.mean(1).sum(1) / judges[:, None]
        reduction = Reduction.identity(view.size)
        group, weight = reduction.group, torch.ones_like(view.size)
        for row, sample in enumerate(view.images.tolist()):
            image = view.image[row].nonzero().flatten()
            salt = f"{self.name}{view.block}"
            noise = state.batch.generator(sample, salt) if self.noise else None
            slot, share = sparsify(
                scores[row, image], view.features[row, image], state.keep[view.block - 1], noise
            )
            reduce_run(group[row], image, slot)
            weight[row, image] = share
        return Reduction(group, weight)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return min(KEEP), max(KEEP)

    def knob_values(self, batch: Batch) -> Sequence[float]:
        return sorted(KEEP)

    def macs(self, view: View, state: Judges) -> Tensor:
        """Distances of the recycled tokens; in the first acting layer the raters' products too."""
        count, width = view.image.sum(1), view.features.shape[-1]
        pruned = count - count.sub(1).clamp(max=state.keep[view.block - 1])
        distances = ((0.3 * pruned).long() + 1) ** 2 * width
        prompt = state.batch.prompt
        if prompt is None or view.block - 1 > min(state.keep):
            return distances
        words = (prompt.lengths - prompt.start - prompt.count)[view.images]
        return distances + prompt.count[view.images] * words * width


def raters(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Words that judge the image tokens: those that image tokens attend to more than the mean;
    all where none does.

    Args:
        image: ``[n, D]`` image tokens. text: ``[T, D]`` embedded words after them.

    Returns:
        ``[T]`` bool, and ``[T]`` the share of the image tokens' attention that each word gets.
    """
    score = (image.float() @ text.float().mT).softmax(1).mean(0)
    chosen = score > score.mean()
    return (chosen if bool(chosen.any()) else ~chosen), score


def cluster(x: Tensor, centres: int, noise: Tensor | float = 0.0) -> Tensor:
    """``[p]`` cluster of each token, by density peaks.

    Args:
        x: ``[p, D]``. centres: number of clusters, at most p; cluster 0 has the highest peak.
        noise: ``[p]`` added to the densities.
    """
    x = x.float()
    # Not by the matrix product that cdist prefers for large inputs: it loses small distances.
    apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[1] ** 0.5
    nearest = apart.topk(centres, dim=1, largest=False).values
    density = (-nearest.square().mean(1)).exp() + noise
    denser = density[None] > density[:, None]
    to_denser = torch.where(denser, apart, apart.max()).amin(1)
    peaks = (to_denser * density).argsort(descending=True, stable=True)[:centres]
    member = apart[peaks].argmin(0)
    member[peaks] = torch.arange(centres, device=x.device)
    return member


def sparsify(
    score: Tensor, features: Tensor, keep: int, noise: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Where one sample's image tokens go in one layer: kept ones in their order, then clusters.

    Args:
        score: ``[n]``, larger is kept. features: ``[n, D]`` the layer's output.
        keep: tokens kept; at least one is not. noise: draws what is added to densities; CPU.

    Returns:
        ``[n]`` slot, -1 = dropped, and ``[n]`` weight.
    """
    order = score.argsort(descending=True, stable=True)
    keep = min(keep, len(order) - 1)
    kept, pruned = order[:keep].sort().values, order[keep:]
    recycled = pruned[: int(0.3 * len(pruned)) + 1]
    centres = len(recycled) // 10 + 1
    added: Tensor | float = 0.0
    if noise is not None:
        added = torch.rand(len(recycled), generator=noise).to(score.device) * CENTRE_NOISE
    member = cluster(features[recycled], centres, added)
    slot = torch.full_like(order, DROPPED)
    slot[kept] = torch.arange(keep, device=slot.device)
    slot[recycled] = keep + member
    weight = torch.ones_like(score)
    weight[recycled] = 1 / (member.bincount(minlength=centres).to(weight.dtype)[member] + 1e-6)
    return slot, weight
