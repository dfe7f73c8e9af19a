"""What a method says of itself: card, options and the range of its knob."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from asap_eval.errors import BadValueError
from asap_eval.method import Reducer, build_from
from asap_eval.options import options
from asap_eval.testing.contract import demand
from asap_eval.testing.subject import Subject

WORDS = ("paper", "licence", "training", "knob_meaning", "deviations")
"""Fields of a card that may not be empty."""


def is_documented(cls: type[Reducer], subject: Subject, params: Mapping[str, Any]) -> None:
    """The card is filled in, each option stands in a docstring, and the knob has a range.

    Args:
        params: options with which the method runs on the subject.
    """
    demand(is_dataclass(cls), f"{cls.__name__} is no dataclass: its fields are the options.")
    for word in WORDS:
        demand(bool(getattr(cls.card, word).strip()), f"The card's {word} is empty.")
    demand(bool((cls.__doc__ or "").strip()), f"{cls.__name__} has no docstring.")
    said = "\n".join(base.__doc__ or "" for base in cls.__mro__)
    for name, _, _ in options(cls):
        demand(
            re.search(rf"(?:^|[\s`]){re.escape(name)}(?:`*:|,)", said) is not None,
            f"The option '{name}' stands in no docstring: write '{name}: what it means' below "
            "'Attributes:'.",
        )
    knob = cls.card.knob
    if knob is None:
        return
    named = {name for name, _, _ in options(cls)}
    demand(knob in named, f"The card's knob '{knob}' is none of the options.")
    given = build_from(cls.name, params)
    if type(given).knob_range is Reducer.knob_range:
        return  # no budget can turn it
    try:
        low, high = given.knob_range(subject.batch(given))
    except BadValueError:
        return  # the other options leave it nothing to turn
    demand(
        math.isfinite(low) and math.isfinite(high) and low < high,
        f"knob_range() gives {low:g} to {high:g}: give two finite numbers, the smaller first.",
    )
