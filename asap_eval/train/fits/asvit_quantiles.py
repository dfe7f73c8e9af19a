"""Calibration of AS-ViT's thresholds as quantiles of scores, without gradients (ours).

One pass over the images for each place: with the thresholds before it in use, its own becomes the
number that lets through as many patches as wanted, mean over the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.errors import BadValueError
from asap_eval.hosts import install
from asap_eval.method import View
from asap_eval.methods.asvit import AsVit, score
from asap_eval.tokens import Reduction
from asap_eval.train.fits.asvit import ThresholdFit
from asap_eval.train.fits.fit import Asked


class AsVitQuantiles(ThresholdFit):
    """Thresholds that leave ``keep^i`` of the patches after the i-th place."""

    how = "quantiles"
    names = ("reaching",)
    trained = "thresholds calibrated (ours)"
    recipe = MappingProxyType({"keep": 0.65, "epochs": 3, "batch_size": 32})

    def __init__(self, asked: Asked, pixels: Tensor) -> None:
        super().__init__(asked, pixels)
        if self.wanted["epochs"] != len(self.places):
            raise BadValueError(
                f"epochs={self.wanted['epochs']}: quantiles take one pass for each of the "
                f"{len(self.places)} places, blocks={list(self.places)}."
            )
        self.kept = Gathered()
        self.latest: tuple[int, Tensor] | None = None

    def get_extra_state(self) -> dict[str, Any]:
        return vars(self.kept)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.kept = Gathered(**state)

    @classmethod
    def check(cls, recipe: Mapping[str, Any]) -> None:
        if not 0 < recipe["keep"] < 1:
            raise BadValueError(
                f"keep={recipe['keep']:g} is a keep rate: give a value between 0 and 1."
            )

    @torch.no_grad()
    def losses(
        self, model: nn.Module, pixels: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Share of the patches that reach the place being calibrated."""
        scored = Scored(blocks=list(self.places), thresholds=self.thresholds.tolist())
        scored.at = self.places[self.kept.done]
        with install(model, scored):
            model(pixels)
        self.latest = len(pixels), scored.found.cpu()
        return (pixels.new_tensor(len(scored.found) / (len(pixels) * self.geometry.patches)),)

    def learn(self) -> None:
        assert self.latest is not None
        self.kept.images += self.latest[0]
        self.kept.scores.append(self.latest[1])

    @torch.no_grad()
    def end_of_epoch(self, epoch: int) -> None:
        ordered = torch.cat(self.kept.scores).sort(descending=True).values
        share = self.wanted["keep"] ** (epoch + 1)
        wanted = round(self.kept.images * self.geometry.patches * share)
        self.thresholds[epoch] = ordered[wanted] if wanted < len(ordered) else 0.0
        self.kept = Gathered(epoch + 1)


@dataclass
class Gathered:
    """What a pass over the images has gathered.

    Attributes:
        done: places whose threshold is found. images: seen in this pass. scores: of their patches
            that reached the place, in the order of the batches.
    """

    done: int = 0
    images: int = 0
    scores: list[Tensor] = field(default_factory=list)


class Scored(AsVit):
    """AS-ViT up to one place, whose scores it keeps and where it drops nothing.

    Attributes:
        at: the block, counted from 1. found: scores of the patches there, image after image.
    """

    at: int
    found: Tensor

    def watch(self, block: int, state: dict[int, float]) -> bool:
        return block == self.at or (block < self.at and super().watch(block, state))

    def decide(self, view: View, state: dict[int, float]) -> Reduction | None:
        if view.block < self.at:
            return super().decide(view, state)
        found = score(view.cls_row, view.head_norms)[:, view.prefix :]
        self.found = found[view.size[:, view.prefix :] > 0].float()
        return None
