"""Bisection for the value of a method's knob that meets a budget."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asap_eval.errors import UnreachableError
from asap_eval.method import Batch, Reducer
from asap_eval.options import options

TOLERANCE = 0.05
"""The search ends this close to the target (percentage points, or tokens)."""
PROMISE = 0.3
"""A result farther from the target than this comes with a note that says why."""
NARROW = 0.01
"""Width of the bracket, relative to the knob, below which halvings without a new value count."""
PATIENCE = 3
"""So many of them in a row end the search: it has closed in on one step of the method."""
RESOLUTION = 1e-6
"""Relative width of the bracket at which the search ends in any case."""


@dataclass(frozen=True)
class Found:
    """The knob closest to a target.

    Attributes:
        knob: the value. reached: the budget's quantity there. low, high: reachable values.
        evaluations: knob values tried. note: why the target was missed, None where it was met.
    """

    knob: float
    reached: float
    low: float
    high: float
    evaluations: int
    note: str | None = None


def search(
    quantity: Callable[[float], float],
    interval: tuple[float, float],
    target: float,
    *,
    whole: bool = False,
    values: Sequence[float] | None = None,
    name: str = "knob",
    unit: str = "%",
) -> Found:
    """Bisection for the knob whose quantity is closest to a target.

    The quantity is taken to be monotone, in either direction; every value tried is remembered.

    Args:
        quantity: what the budget counts, as a function of the knob.
        interval: where the knob is searched, both ends included. whole: only integers.
        values: the only ones the knob takes, ascending, in place of the interval.

    Raises:
        UnreachableError: the target is outside what the ends of the interval reach.
    """
    seen: dict[float, float] = {}
    if values is not None:  # bisected by their places
        interval, whole = (0, len(values) - 1), True

    def knob_at(place: float) -> float:
        return place if values is None else values[round(place)]

    def at(place: float) -> float:
        if place not in seen:
            seen[place] = quantity(knob_at(place))
        return seen[place]

    low, high = (round(end) if whole else end for end in interval)
    reach = sorted((at(low), at(high)))
    if not reach[0] - TOLERANCE <= target <= reach[1] + TOLERANCE:
        raise UnreachableError(
            f"The target {target:g} {unit} cannot be met: with {name} from {knob_at(low):g} to "
            f"{knob_at(high):g} this method reaches {reach[0]:.2f} to {reach[1]:.2f} {unit}. "
            "Choose a target inside, or change the method's other options."
        )
    rising = at(high) >= at(low)
    smallest = 1 if whole else RESOLUTION * abs(high)
    idle = 0
    while high - low > smallest and idle < PATIENCE and _error(seen, target) > TOLERANCE:
        middle = _middle(low, high, whole)
        new = at(middle) not in (at(low), at(high)) or high - low > NARROW * abs(high)
        idle = 0 if new else idle + 1
        if (at(middle) < target) == rising:
            low = middle
        else:
            high = middle
    best = min(seen, key=lambda place: (abs(seen[place] - target), place))
    missed = abs(seen[best] - target)
    note = None
    if missed > PROMISE:
        ends = [f"{name}={knob_at(end):.6g} gives {at(end):.2f}" for end in (low, high)]
        sides = ", ".join(ends)
        note = (
            f"the method's steps are too coarse: {sides} {unit}; the target was {target:g} {unit}"
        )
    return Found(knob_at(best), seen[best], reach[0], reach[1], len(seen), note)


def ends(reducer: Reducer, batch: Batch) -> tuple[float, float]:
    """The least and the greatest value of the knob that a search tries."""
    values = reducer.knob_values(batch)
    low, high = reducer.knob_range(batch) if values is None else (values[0], values[-1])
    return (round(low), round(high)) if whole_knob(reducer) else (low, high)


def whole_knob(reducer: Reducer) -> bool:
    """Whether the knob takes integers only."""
    for option, hint, _ in options(type(reducer)):
        if option == reducer.card.knob:
            return float not in {hint, *typing.get_args(hint)}
    return False


def _middle(low: float, high: float, whole: bool) -> float:
    """Halfway; the geometric mean where one end is more than twice the other, as of bins."""
    middle = math.sqrt(low * high) if low > 0 and high > 2 * low else (low + high) / 2
    return min(max(math.floor(middle), low + 1), high - 1) if whole else middle


def _error(seen: dict[float, float], target: float) -> float:
    """How far the closest value so far is from the target."""
    return min(abs(value - target) for value in seen.values())
