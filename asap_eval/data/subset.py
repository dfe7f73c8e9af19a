"""Which samples of a data set a run takes: the first ones, or some evenly over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from asap_eval.errors import unknown

Sample = Literal["first", "spread"]
"""The first n samples, or n evenly over all of them."""


def check_sample(sample: str) -> None:
    """Raise `UnknownNameError` where a choice is no `Sample`."""
    if sample not in get_args(Sample):
        raise unknown("sample", str(sample), get_args(Sample))


def subset(places: Sequence[int], count: int, sample: Sample) -> list[int]:
    """So many of some places, or all of them where there are fewer."""
    count = min(count, len(places))
    return [places[at if sample == "first" else at * len(places) // count] for at in range(count)]
