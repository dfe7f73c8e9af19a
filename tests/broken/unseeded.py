"""Unseeded: it draws from the global generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from broken_card import CARD
from torch import Tensor

from asap_eval.method import View, register
from asap_eval.scorer import Plan, Scorer


@register("unseeded", CARD)
@dataclass
class Unseeded(Scorer):
    """Keep random patches, others at every run."""

    def score(self, view: View, state: Plan) -> Tensor:
        return torch.rand(len(view.images), state.batch.patches)
