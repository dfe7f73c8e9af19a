"""Training of predictors that score patches: DynamicViT's way, for every method with some.

Masked student, unpruned teacher, one frozen backbone for both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from asap_eval.errors import BadValueError
from asap_eval.hosts import geometry_of, install
from asap_eval.methods.parts.learned import Learned
from asap_eval.methods.parts.predictors import Predictor, numbered
from asap_eval.train.fits.fit import Asked, Fit
from asap_eval.train.fits.losses import losses
from asap_eval.train.fits.masked import Masked, check_output


class LearnedFit(Fit):
    """The predictors of a method that derives from `Learned`, by place."""

    of = Learned
    names = ("loss", "ce", "kl", "ratio")
    recipe = MappingProxyType(
        {
            **{"keep": 0.7, "epochs": 30, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.05},
            **{"ce": 1.0, "kl": 0.5, "ratio": 2.0},
        }
    )

    def __init__(self, asked: Asked, pixels: Tensor) -> None:
        super().__init__(asked, pixels)
        check_output(asked.model, pixels)
        found = dict[int, Predictor]()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(asked.seed)
            with install(asked.model, self._masked(found, torch.Generator())):
                asked.model(pixels)
        if not found:
            raise BadValueError(f"method.blocks={asked.method.blocks}: nothing to train.")  # type: ignore[attr-defined]
        self.predictors = nn.ModuleDict({str(place): found[place] for place in sorted(found)})
        self.depth = geometry_of(asked.model).depth

    @classmethod
    def check(cls, recipe: Mapping[str, Any]) -> None:
        if not 0 < recipe["keep"] < 1:
            raise BadValueError(
                f"keep={recipe['keep']:g} is a keep rate: give a value between 0 and 1."
            )

    @staticmethod
    def method_k(recipe: Mapping[str, Any]) -> float:
        return float(recipe["keep"])

    def _masked(self, predictors: dict[int, Predictor], draws: torch.Generator) -> Masked:
        return Masked(cast(Learned, self.method), predictors, draws)

    def losses(
        self, model: nn.Module, pixels: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, ...]:
        with torch.no_grad():
            teacher = model(pixels)
        made = {int(place): predictor for place, predictor in self.predictors.items()}
        masked = self._masked(cast(dict[int, Predictor], made), draws)
        with install(model, masked):
            student = model(pixels)
        weights = {name: self.wanted[name] for name in self.names[1:]}
        found = losses(student, teacher, masked.masks.kept, self.wanted["keep"], **weights)
        return found.total, found.ce, found.kl, found.ratio

    def tensors(self) -> dict[str, Tensor]:
        made = {int(place): predictor for place, predictor in self.predictors.items()}
        return numbered(cast(dict[int, Predictor], made))

    def said(self) -> dict[str, str]:
        places = cast(Learned, self.method).places(self.depth)
        return {"blocks": json.dumps(list(places))}
