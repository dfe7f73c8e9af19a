"""Drops the class token: it ranks all tokens, and forgets that the first ones are no patches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from broken_card import CARD

from asap_eval.method import Batch, Need, Reducer, View, register
from asap_eval.tokens import Reduction


@register("drops_class_token", replace(CARD, knob_meaning="tokens kept, from 1"))
@dataclass
class DropsClassToken(Reducer):
    """Keep the tokens with the longest keys after the second block.

    Attributes:
        k: tokens kept.
    """

    k: int = 20
    needs = frozenset({Need.KEYS})

    def watch(self, block: int, state: Any) -> bool:
        return block == 2

    def decide(self, view: View, state: Any) -> Reduction | None:
        length = view.keys.float().norm(dim=-1).mean(1)
        rank = (-length).argsort(dim=1, stable=True).argsort(dim=1)
        kept = rank < self.k
        kept[:, 0] = False
        return Reduction.keep(kept)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.tokens
