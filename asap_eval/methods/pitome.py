"""PiToMe: Accelerating Transformers with Spectrum-Preserving Token Merging (arXiv 2405.16148).

In every block, between attention and MLP, patches that resemble many others are merged into their
nearest neighbours; patches of low energy, unlike the rest, are protected in the later blocks.
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
from asap_eval.methods.parts.matching import similarities
from asap_eval.tokens import Reduction

MARGIN = 0.75
"""Of the first block; it falls in proportion to 0 behind the last."""


@register(
    "pitome",
    Card(
        paper="Accelerating Transformers with Spectrum-Preserving Token Merging, arXiv 2405.16148",
        licence="CC-BY-NC 4.0",
        training="training-free",
        knob="k",
        knob_meaning="share of the patches kept by each block, 0.5 < k <= 1",
        fixed_count=True,
        deviations="distillation and register tokens are protected (theirs takes them for "
        "patches); similarities in fp32; a zero key has similarity 0 instead of NaN",
    ),
)
@dataclass
class PiToMe(Reducer):
    """Merge the patches of highest energy; order: prefix, unmerged patches, targets.

    The energy of a patch is the mean over all patches, itself included, of ``ELU(cosine - margin)``
    of head-mean keys. Merges are size-weighted means.

    Attributes:
        k: share of the n patches that a block keeps: ``floor(n - n k)`` are merged.
        proportional: attention adds the logarithm of a token's size. The paper describes it; the
            authors' code for image models goes without.
    """

    k: float = 0.925
    # A constant of the class elsewhere, an option here.
    proportional: bool = False  # type: ignore[misc]
    site = "between"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.KEYS})

    def check(self, batch: Batch) -> None:
        if not 0.5 <= self.k <= 1:
            raise BadValueError(f"pitome: k={self.k} is a share kept: give a value in [0.5, 1].")

    def begin(self, batch: Batch) -> int:
        """L."""
        return batch.depth

    def watch(self, block: int, state: int) -> bool:
        return self.k < 1

    def _merged(self, view: View) -> int:
        patches = view.size.shape[1] - view.prefix
        return math.floor(patches - patches * self.k)

    def macs(self, view: View, state: int) -> int:
        """All pairs of patches; the partners are looked up among them."""
        patches = view.size.shape[1] - view.prefix
        return patches**2 * view.keys.shape[-1] if self._merged(view) else 0

    def decide(self, view: View, state: int) -> Reduction | None:
        r, at = self._merged(view), view.block - 1
        if not r:
            return None
        cosine = similarities(mean_over_heads(view.keys)[:, view.prefix :])
        found = energy(cosine, MARGIN * (1 - at / state))
        order = found.argsort(dim=1, descending=True, stable=True)
        slots = merge(cosine, order, r, pairs=at >= math.ceil(state / 2))
        front = torch.arange(view.prefix, device=slots.device).expand(len(slots), -1)
        return Reduction(torch.cat([front, slots + view.prefix], 1))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 0.5, 1.0


def energy(cosine: Tensor, margin: float) -> Tensor:
    """``[b, n]`` how much each patch resembles all others."""
    return F.elu(cosine - margin, inplace=True).mean(-1)


def merge(cosine: Tensor, order: Tensor, r: int, pairs: bool) -> Tensor:
    """``[b, n]`` slot of each patch when r are merged into their most similar partner.

    Args:
        cosine: ``[b, n, n]``. order: ``[b, n]`` patches by falling energy; sources and targets take
            turns in it. pairs: whether the first 2 r of it alone can merge, and all r sources do;
            otherwise all can, and the r sources with the best partner do.
    """
    among = order[:, : 2 * r] if pairs else order
    sources, targets = among[:, 0::2], among[:, 1::2]
    image = torch.arange(len(order), device=order.device)[:, None, None]
    scores = cosine[image, sources[:, :, None], targets[:, None]]
    best, partner = scores.max(-1)
    ranked = best.argsort(dim=1, descending=True, stable=True)
    left = sources.gather(1, ranked[:, r:])
    kept = torch.cat([left, order[:, 2 * r :] if pairs else order[:, :0], targets], 1)
    slots = torch.empty_like(order)
    place = torch.arange(kept.shape[1], device=order.device).expand(kept.shape)
    slots.scatter_(1, kept, place)
    merged = ranked[:, :r]
    into = targets.gather(1, partner.gather(1, merged))
    return slots.scatter(1, sources.gather(1, merged), slots.gather(1, into))
