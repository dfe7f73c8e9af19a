"""A reading of AiluRus (arXiv 2311.01197).

After one early block patches are clustered by density peaks with spatial weights; each cluster goes
on as one token. The authors' code was not available: the formulas are recalled, and what they leave
open is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.tokens import Reduction


@register(
    "ailurus_reading",
    Card(
        paper="a reading of AiluRus: A Scalable ViT Framework for Dense Prediction, "
        "arXiv 2311.01197",
        licence="repository named in the abstract, not available",
        training="training-free",
        knob="m",
        knob_meaning="clusters left of the patches, from 1",
        fixed_count=True,
        deviations="a reading: formulas recalled, ties and tokens without a denser neighbour are "
        "our decisions; made for dense tasks, used here in classification",
    ),
)
@dataclass
class AilurusReading(Reducer):
    """Keep m cluster centres after one block; every other patch joins its nearest centre.

    Attributes:
        m: clusters. after: the block, counted from 1.
        alpha: weight of distance on the grid: the nearest patch counts alpha, the farthest 1.
        nearest: lambda, patches around each that can be compared with it.
        neighbours: patches that a density is measured from.
        proportional: attention adds the logarithm of a token's size.
    """

    m: int = 118
    after: int = 2
    alpha: float = 0.9
    nearest: int = 50
    neighbours: int = 1
    # A constant of the class elsewhere, an option here.
    proportional: bool = True  # type: ignore[misc]

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FEATURES})

    def check(self, batch: Batch) -> None:
        if not 1 <= self.after <= batch.depth:
            raise BadValueError(
                f"ailurus_reading: after={self.after}: the model has blocks 1 to {batch.depth}."
            )
        # A token is no neighbour of its own: with all others as neighbours none would be densest.
        most = min(self.nearest, batch.patches - 1)
        if self.m < 1 or not 1 <= self.neighbours <= most or not 0 <= self.alpha <= 1:
            raise BadValueError(
                f"ailurus_reading: m={self.m}, neighbours={self.neighbours}, "
                f"nearest={self.nearest}, alpha={self.alpha}: give at least 1 cluster, 1 to "
                "`nearest` neighbours, and an alpha from 0 to 1."
            )

    def begin(self, batch: Batch) -> Batch:
        return batch

    def watch(self, block: int, state: Batch) -> bool:
        return block == self.after and self.m < state.patches

    def macs(self, view: View, state: Batch) -> int:
        """The distances of all pairs of patches."""
        return state.patches**2 * view.features.shape[-1]

    def decide(self, view: View, state: Batch) -> Reduction:
        plain = distances(view.features[:, view.prefix :].detach())
        near = grid_ranks(state.grid, plain.device)
        weighted = spatial(plain, near, self.alpha, self.nearest)
        chosen = centres(weighted, self.m, self.neighbours)[0]
        cluster = assign(plain, weighted, chosen) + view.prefix
        front = torch.arange(view.prefix, device=cluster.device).expand(len(cluster), -1)
        return Reduction(torch.cat([front, cluster], 1))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.patches


def distances(x: Tensor) -> Tensor:
    """``[b, n, n]`` fp64 Euclidean distances of ``[b, n, D]``, over the root of D."""
    wide = x.double()
    square = wide.square().sum(-1)
    between = square[:, :, None] + square[:, None] - 2 * wide @ wide.mT
    return (between.clamp(min=0) / x.shape[-1]).sqrt()


def grid_ranks(grid: tuple[int, int], device: torch.device) -> Tensor:
    """``[n, n]`` rank of each patch by its distance on the grid: itself 0, ties by index."""
    rows, columns = (torch.arange(side, device=device) for side in grid)
    place = torch.cartesian_prod(rows, columns)
    square = (place[:, None] - place).square().sum(-1)
    return square.argsort(dim=1, stable=True).argsort(dim=1)


def spatial(plain: Tensor, rank: Tensor, alpha: float, nearest: int) -> Tensor:
    """``[b, n, n]`` distances that grow with the rank on the grid; infinite beyond ``nearest``."""
    return torch.where(
        rank <= nearest, plain * (alpha + (1 - alpha) * rank.double() / nearest), torch.inf
    )


def centres(weighted: Tensor, m: int, neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
    """Density peaks: the m centres ``[b, m]`` ascending, and density and delta ``[b, n]``.

    Patches without a denser one in reach come first, by falling density; then the others by density
    times the distance to the nearest denser one.
    """
    count = weighted.shape[1]
    self_ = torch.eye(count, dtype=torch.bool, device=weighted.device)
    others = weighted.masked_fill(self_, torch.inf).sort(dim=-1).values[..., :neighbours]
    density = (-others.square().mean(-1)).exp()
    denser = density[:, None] > density[:, :, None]
    delta = weighted.masked_fill(~denser, torch.inf).amin(-1)
    # A density is at most 1: those without a denser one are ranked above all products.
    top = delta.isinf()
    by_product = torch.where(top, -1, density * delta.masked_fill(top, 0))
    order = by_product.argsort(dim=1, descending=True, stable=True)
    first = torch.where(top, density, -1).argsort(dim=1, descending=True, stable=True)
    rank = torch.where(top, first.argsort(dim=1), top.sum(1, keepdim=True) + order.argsort(dim=1))
    return rank.argsort(dim=1)[:, :m].sort(dim=1).values, density, delta


def assign(plain: Tensor, weighted: Tensor, chosen: Tensor) -> Tensor:
    """``[b, n]`` cluster of each patch: its nearest centre in reach, else the nearest of all."""
    reach = weighted.take_along_dim(chosen[:, None], 2)
    anywhere = plain.take_along_dim(chosen[:, None], 2).argmin(-1)
    found = torch.where(reach.isinf().all(-1), anywhere, reach.argmin(-1))
    own = torch.arange(chosen.shape[1], device=chosen.device).expand(chosen.shape)
    return found.scatter(1, chosen, own)
