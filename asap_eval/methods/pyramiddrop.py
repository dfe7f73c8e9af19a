"""PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
Reduction (Xing et al., arXiv 2410.17247).

Before a few layers of the language model the image tokens that the prompt's last token would attend
to least there are removed, a share each time, while the prompt is read.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.methods.parts.selection import most_attended
from asap_eval.tokens import Reduction


@dataclass
class Stages:
    """State of one forward pass: the share of the first image tokens that is left before a block
    (from 1), and ``[B]`` how many those were."""

    share: dict[int, float]
    first: Tensor


@register(
    "pyramiddrop",
    Card(
        paper="PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual "
        "Redundancy Reduction, arXiv 2410.17247",
        licence="MIT",
        training="training-free use; the authors also train with it",
        knob="ratio",
        knob_meaning="share of its image tokens that each stage keeps, 0 < ratio <= 1; the authors "
        "take 0.5",
        fixed_count=True,
        deviations="stages at a quarter, a half and three quarters of any depth (theirs of 32: 8, "
        "16, 24); the settings behind rows of 64, 128 and 192 tokens that others print are unknown",
    ),
)
@dataclass
class PyramidDrop(Reducer):
    """Keep the image tokens that the prompt's last token attends to most, stage by stage.

    A stage reads the row of the layer that comes, over the tokens that are about to be pruned:
    projections of its keys that the pruned layer does not make, and that are counted. Each layer
    counts its tokens from 0, in decoding too. All image tokens of a sample compete, newlines of
    several crops included.

    Attributes:
        ratio: share of the image tokens left after the first stage; its square after the second,
            and so on.
        ratios: shares of the first image tokens left after each stage, instead (the authors'
            0.5, 0.25, 0.125).
        layers: a stage acts before each of these layers, counted from 0 as the authors do.
    """

    ratio: float = 0.5
    ratios: list | None = None
    layers: list | None = None
    tower = "language"
    site = "before"
    positions = "renumbered"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ROWS})

    def check(self, batch: Batch) -> None:
        self._shares(batch.depth)

    def _shares(self, depth: int) -> dict[int, float]:
        """Share that is left before each acting block, from 1."""
        layers = [depth * s // 4 for s in (1, 2, 3)] if self.layers is None else self.layers
        acting = locations(self.name, layers, depth)
        powers = [self.ratio ** (stage + 1) for stage in range(len(acting))]
        shares = powers if self.ratios is None else self.ratios
        right = all(isinstance(r, (int, float)) and 0 <= r <= 1 for r in shares)
        falling = right and all(a >= b for a, b in itertools.pairwise(shares))
        if not falling or len(shares) != len(acting) or not 0 < self.ratio <= 1:
            raise BadValueError(
                f"pyramiddrop: ratio={self.ratio}, ratios={self.ratios} for layers={acting}: give "
                "a ratio in (0, 1], or one share in [0, 1] for each layer, none above the one "
                "before."
            )
        return {layer + 1: float(share) for layer, share in zip(acting, shares, strict=True)}

    def begin(self, batch: Batch) -> Stages:
        assert batch.prompt is not None  # a host runs a language method on prompts alone
        return Stages(self._shares(batch.depth), batch.prompt.count)

    def watch(self, block: int, state: Stages) -> bool:
        return block in state.share

    def rows(self, block: int, lengths: Tensor, state: Stages) -> Tensor:
        return lengths[:, None] - 1

    def decide(self, view: View, state: Stages) -> Reduction | None:
        share = state.share[view.block]
        left = [int(count * share) for count in state.first[view.images].tolist()]
        keep = torch.tensor(left, device=view.size.device)
        kept = most_attended(view.rows[:, :, 0].mean(1), view.image, keep)
        return Reduction.keep((view.size > 0) & (kept | ~view.image))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 0.01, 1.0
