"""Unseeded: it draws from the global generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.method import Card, View, register
from asap_eval.scorer import Plan, Scorer


@register(
    "unseeded",
    Card(
        paper="a broken method",
        licence="Apache-2.0",
        training="training-free",
        knob="k",
        knob_meaning="share of patches kept, 0 < k <= 1",
        fixed_count=True,
    ),
)
@dataclass
class Unseeded(Scorer):
    """Keep random patches, others at every run."""

    def score(self, view: View, state: Plan) -> Tensor:
        return torch.rand(len(view.images), state.batch.patches)
