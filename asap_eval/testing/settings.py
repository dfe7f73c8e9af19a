"""Settings of a method to try: one that changes something, one that keeps every token."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from asap_eval.errors import BadValueError
from asap_eval.method import Reducer, build_from, method_class
from asap_eval.options import options
from asap_eval.testing.subject import Effect, Subject, Trial

STEPS = 9
"""Values of the knob that are tried, evenly over its range."""


@dataclass(frozen=True)
class Asked:
    """A method as it is asked for.

    Attributes:
        params: its options. k: its knob, where one was given.
    """

    method: str
    params: Mapping[str, Any]
    k: float | str | None = None

    @property
    def cls(self) -> type[Reducer]:
        return method_class(self.method)

    def build(self, k: float | str | None = None, more: Mapping[str, Any] | None = None) -> Reducer:
        knob = {} if k is None else {"k": k}
        return build_from(self.method, {**self.params, **(more or {}), **knob})

    def trial(self, subject: Subject, k: float | str | None, more: Mapping[str, Any]) -> Trial:
        """These options on a subject, with the effect that they have."""
        build = partial(self.build, k, more)
        said = {**self.params, **more, **({} if k is None else {"k": k})}
        words = ", ".join(
            f"{name}={f'{value:.4g}' if isinstance(value, float) else value}"
            for name, value in said.items()
        )
        return Trial(subject, build, effect_of(subject, build()), None, words or "the defaults")


def effect_of(subject: Subject, reducer: Reducer) -> Effect:
    """What a method does to a subject."""
    seen = subject.seen(reducer)
    traces = [seen.trace, *([seen.trace.language] if type(reducer).tower == "language" else [])]
    if any(bool(trace.fired.any()) for trace in traces):
        return "tokens"
    far = (seen.outputs - subject.plain()).abs().max()
    return "attention" if float(far) > 1e-3 else "nothing"


def acting(asked: Asked, subject: Subject) -> Trial | None:
    """A setting that changes something: as asked, or the middle one of those the knob can reach."""
    try:
        first = asked.trial(subject, asked.k, {})
    except BadValueError:
        if asked.k is not None or asked.cls.card.knob is None:
            raise
    else:
        if first.effect != "nothing":
            return first
    for more in _wider(asked):
        for k in _to_try(asked, subject):
            trial = asked.trial(subject, k, more)
            if trial.effect != "nothing":
                return trial
    return None


def _to_try(asked: Asked, subject: Subject) -> Sequence[float | str | None]:
    """The knob as it was given, or values over its range, those about a quarter up first."""
    if asked.k is not None or not _turns(asked):
        return [asked.k]
    values = list(knob_values(asked, subject))
    aim = values[0] + (values[-1] - values[0]) / 4
    return sorted(values, key=lambda value: abs(value - aim))


def _turns(asked: Asked) -> bool:
    """Whether the method has a knob with a range."""
    return asked.cls.card.knob is not None and asked.cls.knob_range is not Reducer.knob_range


def _wider(asked: Asked) -> Iterator[dict[str, Any]]:
    """Nothing more, then each value of the option that widens the knob's reach."""
    yield {}
    if asked.cls.card.widens is not None:
        option, values = asked.cls.card.widens
        if option not in asked.params:
            yield from ({option: value} for value in values)


def keeping_all(asked: Asked, subject: Subject) -> Trial | None:
    """A setting that keeps every token: as asked, or an end of the knob's range."""
    for k in dict.fromkeys([asked.k, *_ends(asked, subject)]):
        try:
            trial = asked.trial(subject, k, {})
        except BadValueError:
            continue
        if trial.effect == "nothing":
            return trial
    return None


def _ends(asked: Asked, subject: Subject) -> list[float]:
    """The ends of the knob's range, the upper one first; none where it is not turned."""
    if asked.k is not None or not _turns(asked):
        return []
    try:
        values = list(knob_values(asked, subject))
    except BadValueError:  # the other options leave it nothing to turn
        return []
    return [values[-1], values[0]]


def knob_values(asked: Asked, subject: Subject) -> Iterator[float]:
    """Values over the knob's range that the method takes, ascending; at least one.

    Raises:
        BadValueError: its other options let it take none.
    """
    reducer = asked.build()
    batch = subject.batch(reducer)
    own = reducer.knob_values(batch)
    low, high = reducer.knob_range(batch)
    steps = (
        own if own is not None else torch.linspace(low, high, STEPS, dtype=torch.float64).tolist()
    )
    hint = next(hint for name, hint, _ in options(asked.cls) if name == asked.cls.card.knob)
    whole = float not in (hint, *typing.get_args(hint))
    last, refused = None, BadValueError(f"{asked.method}: its knob takes no value here.")
    for value in steps:
        k = float(round(value)) if whole else min(max(value, low), high)
        if k == last:
            continue
        try:
            reducer = asked.build(k)
            reducer.check(batch)
        except BadValueError as error:
            refused = error
            continue
        last = k
        yield k
    if last is None:
        raise refused
