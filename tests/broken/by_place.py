"""Looks at places in the batch: where an image stands there decides which patches stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from broken_card import CARD
from torch import Tensor

from asap_eval.method import View, register
from asap_eval.scorer import Plan, Scorer


@register("by_place", CARD)
@dataclass
class ByPlace(Scorer):
    """Keep a run of patches that begins elsewhere for every place in the batch."""

    def score(self, view: View, state: Plan) -> Tensor:
        patches = state.batch.patches
        first = 5 * view.images[:, None]
        return -((torch.arange(patches) - first) % patches).float()
