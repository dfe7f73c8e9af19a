"""TopV: Compatible Token Pruning with Inference Time Optimization (Yang et al., CVPR 2025,
arXiv 2503.18278): our reading; no code of the authors and only digests of the paper were at hand.

Once, early in the language model, image tokens are matched by optimal transport with what the layer
makes of them; those that carry most go on, and of the others every m-th.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.tokens import Reduction

STEPS = 3
"""Of Sinkhorn's iteration."""


@register(
    "topv_reading",
    Card(
        paper="TopV, arXiv 2503.18278 (our reading)",
        licence="none public",
        training="training-free",
        knob="k",
        knob_meaning="image tokens kept for their importance, from 1; of the others every m-th "
        "(method.recover) stays too",
        fixed_count=True,
        deviations="a reading: no code of the authors is public. The scale of each cost, alpha, "
        "beta, gamma, sigma, epsilon, the marginals, recovered tokens beside the budget and kept "
        "position ids are choices; the base crop is stretched over the tiles; in fp64",
        widens=("recover", (0,)),
    ),
)
@dataclass
class TopVReading(Reducer):
    """Prune image tokens once by what optimal transport moves, in raster order, ids kept.

    Attributes:
        k: image tokens kept for their importance.
        recover: of the others, in raster order, every so many-th stays, the first included; 0 =
            none.
        layer: the layer at whose output tokens go, from 1; sources are what enters it, targets the
            input of its MLP.
        alpha, beta, gamma: weights of the costs: distance of features, nearness on the grid,
            distance from the image's centre.
        sigma: of the grid's Gaussian, in patches. epsilon: of the entropic regularisation.
    """

    k: int = 64
    recover: int = 6
    layer: int = 2
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.01
    sigma: float = 10.0
    epsilon: float = 0.1
    tower = "language"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.INPUT, Need.MLP_INPUT})

    def check(self, batch: Batch) -> None:
        if self.k < 1 or self.recover < 0:
            raise BadValueError(
                f"topv_reading: k={self.k}, recover={self.recover}: give k >= 1 and recover >= 0."
            )
        if not 1 <= self.layer < batch.depth:
            raise BadValueError(
                f"topv_reading: layer={self.layer}: give 1 to {batch.depth - 1}; the layers after "
                "it see fewer tokens."
            )
        if self.sigma <= 0 or self.epsilon <= 0:
            raise BadValueError(
                f"topv_reading: sigma={self.sigma}, epsilon={self.epsilon}: give positive values."
            )
        if not all(map(math.isfinite, (self.alpha, self.beta, self.gamma))):
            raise BadValueError(
                f"topv_reading: alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}: give "
                "finite weights of the costs."
            )

    def begin(self, batch: Batch) -> Batch:
        return batch

    def watch(self, block: int, state: Batch) -> bool:
        return block == self.layer

    def decide(self, view: View, state: Batch) -> Reduction | None:
        prompt = state.prompt
        assert prompt is not None  # a host runs a language method on prompts alone
        kept = view.size > 0
        for row, sample in enumerate(view.images.tolist()):
            run = view.image[row].nonzero().flatten()
            place = stretched(prompt.place[sample, run], prompt.crop[sample, run])
            cost = self.cost(view.input[row, run], view.mlp_input[row, run], place)
            kept[row, run] = top_and_recovered(moved(cost, self.epsilon), self.k, self.recover)
        return Reduction.keep(kept)

    def cost(self, source: Tensor, target: Tensor, place: Tensor) -> Tensor:
        """``[n, n]`` fp64 of moving token i to token j, each factor brought to [0, 1].

        Args:
            source, target: ``[n, D]``. place: ``[n, 2]`` row and column.
        """
        s, t, place = source.double(), target.double(), place.double()
        square = s.square().sum(1)[:, None] + t.square().sum(1) - 2 * (s @ t.mT)
        features = square.clamp(min=0).sqrt()
        apart = (place[:, None] - place).square().sum(2)
        near = 1 - (-apart / (2 * self.sigma**2)).exp()
        centre = (place.amin(0) + place.amax(0)) / 2
        outer = (place - centre).square().sum(1).sqrt()[:, None]
        return (
            self.alpha * unit_range(features)
            + self.beta * unit_range(near)
            + self.gamma * unit_range(outer)
        )

    def macs(self, view: View, state: Batch) -> Tensor:
        """Products of all pairs of tokens, and seven products of the kernel with a vector."""
        return view.image.sum(1) ** 2 * (view.input.shape[-1] + 2 * STEPS + 1)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.tokens if batch.prompt is None else int(batch.prompt.count.max())


def unit_range(values: Tensor) -> Tensor:
    """Values brought to [0, 1] by their least and largest; 0 where all are equal."""
    span = values.amax() - values.amin()
    return (values - values.amin()) / torch.where(span > 0, span, 1)


def stretched(place: Tensor, crop: Tensor) -> Tensor:
    """``[n, 2]`` places, the base crop's stretched over the stitched grid where there are tiles."""
    base, tile = crop == 0, crop > 0
    if not bool(tile.any()) or not bool(base.any()):
        return place
    scale = (place[tile].amax(0) + 1).double() / (place[base].amax(0) + 1)
    return torch.where(base[:, None], (place + 0.5) * scale - 0.5, place.double())


def moved(cost: Tensor, epsilon: float) -> Tensor:
    """``[n]`` what each source gives after Sinkhorn's steps, columns last, uniform marginals."""
    kernel, count = (-cost / epsilon).exp(), len(cost)
    v = torch.ones_like(kernel[:, :1])
    u = v
    for _ in range(STEPS):
        u = 1 / count / (kernel @ v)
        v = 1 / count / (kernel.mT @ u)
    return (u * (kernel @ v))[:, 0]


def top_and_recovered(importance: Tensor, top: int, every: int) -> Tensor:
    """``[n]`` bool: the ``top`` most important; of the rest in raster order each ``every``-th."""
    kept = torch.zeros_like(importance, dtype=torch.bool)
    kept[importance.argsort(descending=True, stable=True)[:top]] = True
    if every:
        kept[(~kept).nonzero().flatten()[::every]] = True
    return kept
