"""DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models (Alvar et al.,
arXiv 2503.02175).

The language model gets the image tokens that are farthest from each other: one after another, the
token whose nearest neighbour among those already taken is farthest away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.greedy import cosines, one_by_one, row_of
from asap_eval.tokens import Reduction


@register(
    "divprune",
    Card(
        paper="DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models, "
        "arXiv 2503.02175",
        licence="CC-BY-NC 4.0",
        training="training-free",
        knob="k",
        knob_meaning="image tokens per image, of all crops together and newlines included, from 1",
        fixed_count=True,
        deviations="distances in fp64 (theirs in the model's precision); the image's true place in "
        "the prompt (theirs takes 35 tokens before it for granted); a token is never taken twice "
        "where all others repeat one that is taken",
    ),
)
@dataclass
class DivPrune(Reducer):
    """Keep the image tokens that differ most from each other, before the language model.

    Projected and packed tokens compete, newlines among them. The prompt is shortened before the
    first layer, so that position ids count what is left.

    Attributes:
        k: image tokens handed to the language model; an image of fewer keeps them all.
        r: the authors' ratio instead: the share of the image tokens that stays, rounded (0.098 in
            their script). None, like ``k``, = 0.098.
    """

    k: int | None = None
    r: float | None = None
    tower = "language"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FEATURES})

    def check(self, batch: Batch) -> None:
        if self.k is not None and self.r is not None:
            raise BadValueError(f"divprune: k={self.k} and r={self.r} both say what stays: drop r.")
        if self.k is not None and self.k < 1:
            raise BadValueError(f"divprune: k={self.k}: give at least one image token.")
        if self.r is not None and not 0 < self.r <= 1:
            raise BadValueError(f"divprune: r={self.r} is a share: give a value in (0, 1].")

    def watch(self, block: int, state: None) -> bool:
        return False

    def kept(self, count: int) -> int:
        """Image tokens that stay of ``count``."""
        if self.k is not None:
            return min(self.k, count)
        return max(1, round(count * (0.098 if self.r is None else self.r)))

    def admit(self, view: View, state: None) -> Reduction | None:
        kept = view.size > 0
        for row, image in enumerate(view.image):
            place = image.nonzero().flatten()
            order = farthest(cosines(view.features[row, place])[None], self.kept(len(place)))[0]
            kept[row, place] = False
            kept[row, place[order]] = True
        return Reduction.keep(kept)

    def macs(self, view: View, state: None) -> Tensor:
        """Cosines of all pairs of image tokens."""
        return view.image.sum(1) ** 2 * view.features.shape[-1]

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.tokens if batch.prompt is None else int(batch.prompt.count.max())


def farthest(similarity: Tensor, count: int) -> Tensor:
    """``[b, count]`` tokens in the order of choice: the one farthest from its nearest neighbour,
    then, each time, the one farthest from the nearest of those taken.

    Args:
        similarity: ``[b, n, n]`` cosines. count: 1 to n.
    """
    distance = 1 - similarity
    nearest = torch.full_like(distance[:, 0], torch.inf)

    def gain(chosen: Tensor) -> Tensor:
        nearest.copy_(torch.minimum(nearest, row_of(distance, chosen)))
        return nearest

    # The smallest entry of a token's column is its distance from itself.
    second = distance.topk(min(2, distance.shape[1]), dim=1, largest=False).values[:, -1]
    return one_by_one(second, gain, count)
