"""ATC: Agglomerative Token Clustering (Haurum et al., arXiv 2409.11923).

Between attention and MLP of some blocks, patches are clustered bottom-up by their keys until a
share of them is left; each cluster becomes its size-weighted mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from asap_eval.errors import BadValueError
from asap_eval.kernels.nearest import mean_over_heads
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.methods.parts.clustering import Linkage, agglomerate
from asap_eval.methods.parts.matching import members, similarities
from asap_eval.methods.parts.schedule import mixed
from asap_eval.tokens import Reduction


@register(
    "atc",
    Card(
        paper="Agglomerative Token Clustering, arXiv 2409.11923",
        licence="MIT",
        training="training-free (the authors also fine-tune)",
        knob="k",
        knob_meaning="keep rate: int(n k^i) of the image's n patches after the i-th place, "
        "0 < k <= 1",
        fixed_count=True,
        deviations="distillation and register tokens are protected (theirs leaves an empty slot); "
        "clusters stand in the order of their first members, theirs in their library's; with r a "
        "block removes r tokens, the authors' code r - 1; a zero key has distance 1",
    ),
)
@dataclass
class Atc(Reducer):
    """Cluster head-mean keys by cosine distance and average each cluster.

    The distances of all pairs are counted as MACs; joining clusters makes no products.

    Attributes:
        k: keep rate, where r is not given.
        blocks: places, counted from 0 as the authors do; ``None`` = at L/4, L/2 and 3L/4.
        r: off the shelf: tokens removed in every block, as ToMe's r; k and blocks are not used.
        linkage: what the distance of two clusters is.
        proportional: attention adds the logarithm of a token's size. Without it the authors' code
            forgets sizes from place to place, in averages too.
    """

    k: float = 0.7
    blocks: list | None = None
    r: float | None = None
    linkage: Linkage = "complete"
    # A constant of the class elsewhere, an option here.
    proportional: bool = True  # type: ignore[misc]
    site = "between"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.KEYS})

    def check(self, batch: Batch) -> None:
        if not 0 < self.k <= 1:
            raise BadValueError(f"atc: k={self.k} is a keep rate: give a value in (0, 1].")
        if self.r is not None and not 0 <= self.r < batch.patches:
            raise BadValueError(f"atc: r={self.r}: give tokens per block, from 0.")
        locations(self.name, self.blocks, batch.depth)

    def begin(self, batch: Batch) -> dict[int, int]:
        """Patches left after each acting block, counted from 1."""
        if self.r is not None:
            left, found = batch.patches, {}
            for block, gone in enumerate(mixed(self.r, batch.depth), 1):
                left = max(1, left - gone)
                found[block] = left
            return found
        places = enumerate(locations(self.name, self.blocks, batch.depth), 1)
        return {at + 1: max(1, int(batch.patches * self.k**i)) for i, at in places}

    def watch(self, block: int, state: dict[int, int]) -> bool:
        return block in state

    def macs(self, view: View, state: dict[int, int]) -> int:
        patches = view.size.shape[1] - view.prefix
        return patches**2 * view.keys.shape[-1] if state[view.block] < patches else 0

    def decide(self, view: View, state: dict[int, int]) -> Reduction | None:
        wanted, prefix = state[view.block], view.prefix
        if wanted >= view.size.shape[1] - prefix:
            return None
        distance = 1 - similarities(mean_over_heads(view.keys)[:, prefix:])
        cluster = agglomerate(distance.detach(), wanted, self.linkage) + prefix
        front = torch.arange(prefix, device=cluster.device).expand(len(cluster), -1)
        group = torch.cat([front, cluster], 1)
        if self.proportional:
            return Reduction(group)
        return Reduction(group, 1 / members(group).gather(1, group).float())

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        if self.r is not None:
            raise BadValueError("atc: a budget turns k: leave r out.")
        places = max(1, len(locations(self.name, self.blocks, batch.depth)))
        return batch.patches ** (-1 / places) + 1e-6, 1.0
