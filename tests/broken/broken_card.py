"""What all the broken methods say of themselves."""

from __future__ import annotations

from asap_eval.method import Card

CARD = Card(
    paper="a broken method",
    licence="Apache-2.0",
    training="training-free",
    knob="k",
    knob_meaning="share of patches kept, 0 < k <= 1",
    fixed_count=True,
)
