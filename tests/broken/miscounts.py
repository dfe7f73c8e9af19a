"""Miscounts its MACs: half of the products that it runs."""

from __future__ import annotations

from dataclasses import dataclass

from broken_card import CARD
from torch import Tensor

from asap_eval.method import Need, View, register
from asap_eval.scorer import Plan, Scorer


@register("miscounts", CARD)
@dataclass
class Miscounts(Scorer):
    """Keep the patches least like the others; all pairs are multiplied, those above are counted."""

    needs = frozenset({Need.FEATURES})

    def score(self, view: View, state: Plan) -> Tensor:
        patches = view.features[:, view.prefix :].float()
        return -(patches @ patches.mT).mean(2)

    def macs(self, view: View, state: Plan) -> int:
        patches, width = view.size.shape[1] - view.prefix, view.features.shape[2]
        return patches * (patches - 1) // 2 * width
