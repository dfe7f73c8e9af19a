"""Leaks between images: a patch is scored against the mean of the whole batch."""

from __future__ import annotations

from dataclasses import dataclass

from broken_card import CARD
from torch import Tensor

from asap_eval.method import Need, View, register
from asap_eval.scorer import Plan, Scorer


@register("leaks", CARD)
@dataclass
class Leaks(Scorer):
    """Keep the patches farthest from the mean patch, of all images instead of their own."""

    needs = frozenset({Need.FEATURES})

    def score(self, view: View, state: Plan) -> Tensor:
        patches = view.features[:, view.prefix :].float()
        return (patches - patches.mean((0, 1))).norm(dim=-1)
