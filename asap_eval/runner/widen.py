"""Where the knob does not meet a budget: another option with which it would, tried and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asap_eval.method import Batch, build, method_class
from asap_eval.runner.search import TOLERANCE, ends


def advice(
    method: str,
    params: Mapping[str, Any],
    batch: Batch,
    quantity: Callable[[Mapping[str, Any], float], float],
    target: float,
    unit: str,
) -> str:
    """What to add to the command line, in one sentence; empty where the method names no option.

    Both ends of the knob are measured at each value of `Card.widens` that is not the given one,
    until the target lies between them.

    Args:
        params: options as given. quantity: what the budget counts, at options and a knob.
    """
    card = method_class(method).card
    if card.widens is None:
        return ""
    option, values = card.widens
    tried = []
    for value in values:
        if params.get(option) == value:
            continue
        changed = {**params, option: value}
        both = ends(build(method, **changed), batch)
        low, high = sorted(quantity(changed, knob) for knob in both)
        said = f"with method.{option}={value} it reaches {low:.2f} to {high:.2f} {unit}"
        if low - TOLERANCE <= target <= high + TOLERANCE:
            return (
                f"On the same samples, {card.knob} at both ends of its range, {said}: add "
                f"method.{option}={value}."
            )
        tried.append(said)
    return f"Nor elsewhere: {', '.join(tried)} (on the same samples)." if tried else ""
