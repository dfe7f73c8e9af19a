"""The unpruned model, run through the same seam as every method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asap_eval.method import Card, Reducer, View, register
from asap_eval.tokens import Reduction


@register(
    "none",
    Card(
        paper="the unpruned model",
        licence="ours",
        training="training-free",
        knob=None,
        knob_meaning="no knob",
        fixed_count=True,
    ),
)
@dataclass
class Identity(Reducer):
    """Nothing is removed; logits are bit-identical to the untouched model's."""

    idle = True

    def watch(self, block: int, state: Any) -> bool:
        return False

    def decide(self, view: View, state: Any) -> Reduction | None:
        return None
