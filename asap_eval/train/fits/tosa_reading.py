"""Training of ToSA's selectors alone: the next block's true attention from this block's scores.

The authors' first stage, as far as it is known; their second, which tunes the backbone to tokens
that skip blocks, is not done here.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asap_eval.errors import UnsupportedModelError
from asap_eval.methods.tosa_reading import Selector, TosaReading
from asap_eval.train.fits.fit import Asked, Fit
from asap_eval.train.fits.watching import Seen, watched

RAISED = 8.0
"""Added to scores in front of the activation; softmax does not see it."""


class TosaFit(Fit):
    """One selector for each pair of blocks, as many hidden channels as heads."""

    of = TosaReading
    recipe = MappingProxyType({"epochs": 5, "batch_size": 16, "lr": 1e-2, "weight_decay": 0.0})

    def __init__(self, asked: Asked, pixels: Tensor) -> None:
        super().__init__(asked, pixels)
        seen = watched(asked.model, pixels)
        if len(seen) < 2:
            raise UnsupportedModelError("tosa_reading: a model of one block has no second one.")
        draws = torch.Generator().manual_seed(asked.seed)
        heads = (seen[at].q.shape[1] for at in range(0, len(seen) - 1, 2))
        self.selectors = nn.ModuleList(untrained(each, draws) for each in heads)

    def losses(
        self, model: nn.Module, pixels: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, ...]:
        """KL(true || predicted) of a query's keys, mean over queries, heads, images and pairs."""
        seen = watched(model, pixels)
        found = [
            divergence(selector, seen[2 * pair], seen[2 * pair + 1])
            for pair, selector in enumerate(self.selectors)
        ]
        return (torch.stack(found).mean(),)

    def tensors(self) -> dict[str, Tensor]:
        return {f"predictor.{name}": value for name, value in self.selectors.state_dict().items()}


def untrained(heads: int, draws: torch.Generator) -> Selector:
    """A fresh selector close to the stand-in without one: the first block's own attention.

    It hands each head's scores on, as its activation does of what exceeds -`RAISED`; a random one
    would need many images to come so far.
    """
    selector = Selector(heads, heads)
    with torch.no_grad():
        for layer in (selector.conv1, selector.conv2):
            noise = torch.randn(layer.weight.shape, generator=draws) * 0.02
            layer.weight.copy_(torch.eye(heads) + noise)
            layer.bias.fill_(0)
        selector.conv1.bias.fill_(RAISED)
    return selector


def divergence(selector: nn.Module, first: Seen, second: Seen) -> Tensor:
    """KL of the second block's attention from what a selector makes of the first's scores."""
    scores = first.q @ first.k.mT * first.q.shape[-1] ** -0.5
    rows = F.kl_div(selector(scores), second.maps, reduction="none").sum(-1)
    return rows.mean()
