"""Where the knob does not meet a budget: another option with which it would, tried and measured."""

from __future__ import annotations

from collections.abc import Callable

from asap_eval.method import Batch, Reducer, build_from, method_class
from asap_eval.record import Job
from asap_eval.runner.knob_search import TOLERANCE, ends


def advice(job: Job, batch: Batch, quantity: Callable[[Reducer], float], unit: str) -> str:
    """What to add to the command line, in one sentence; empty where the method names no option.

    Both ends of the knob are measured at each value of `Card.widens` that is not the given one,
    until the target lies between them.

    Args:
        quantity: what the budget counts of the calibration samples under a method.
    """
    assert job.budget is not None
    card = method_class(job.method).card
    if card.widens is None:
        return ""
    option, values = card.widens
    tried = []
    for value in values:
        if job.params.get(option) == value:
            continue
        changed = {**job.params, option: value}
        both = ends(build_from(job.method, changed), batch)
        low, high = sorted(quantity(build_from(job.method, changed, knob)) for knob in both)
        said = f"with method.{option}={value} it reaches {low:.2f} to {high:.2f} {unit}"
        if low - TOLERANCE <= job.budget.target <= high + TOLERANCE:
            return (
                f"On the same samples, {card.knob} at both ends of its range, {said}: add "
                f"method.{option}={value}."
            )
        tried.append(said)
    return f"Nor elsewhere: {', '.join(tried)} (on the same samples)." if tried else ""
