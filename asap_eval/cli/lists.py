"""Lists without brackets: ``methods=asap,random`` is ``methods=[asap,random]``.

Brackets have to be quoted in zsh. Hydra reads values with commas as a sweep, which needs ``-m``;
where a key takes a list and nothing is swept, a list is what was meant.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Sequence
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Override

from asap_eval.bench.bench import bench_class
from asap_eval.cli.groups import GROUPS
from asap_eval.cli.overrides import parsed, values_of
from asap_eval.method import method_class
from asap_eval.options import options

ALWAYS = ("methods", "plugins")
"""Keys that mean nothing without a list."""
KEYS = ("tasks",)
"""Keys that take a list."""


def with_brackets(overrides: Sequence[str], *, multirun: bool) -> list[str]:
    """The overrides of a command line, lists among them in brackets.

    Args:
        multirun: whether values with commas are a sweep. In an experiment without one they narrow
            the sweeps of its rows, as a list does.
    """
    found = parsed(overrides)
    chosen = {one.key_or_group: values_of(one) for one in found if one.key_or_group in GROUPS}
    narrowed = "experiment" in chosen
    return [
        _bracketed(text)
        if _has_commas(one) and _takes(one.key_or_group, chosen, narrowed, multirun)
        else text
        for text, one in zip(overrides, found, strict=True)
    ]


def _has_commas(override: Override) -> bool:
    value = override.value()
    return isinstance(value, ChoiceSweep) and value.simple_form


def _bracketed(text: str) -> str:
    key, _, value = text.partition("=")
    return f"{key}=[{value}]"


def _takes(key: str, chosen: dict[str, list[str]], narrowed: bool, multirun: bool) -> bool:
    """Whether a key takes a list here."""
    if key in ALWAYS or multirun:
        return key in ALWAYS
    if key in KEYS or (narrowed and key not in GROUPS):
        return True
    group, _, option = key.partition(".")
    if group == "method":
        return any(_of_list(method_class(name), option) for name in chosen.get(group, ()))
    if group == "bench":
        return any(_of_list(bench_class(name), option) for name in chosen.get(group, ()))
    return key.startswith("model.kwargs.") or key == "model.classes"


def _of_list(cls: type[Any], option: str) -> bool:
    hints: Collection[Any] = [hint for name, hint, _ in options(cls) if name == option]
    arms = [arm for hint in hints for arm in (hint, *typing.get_args(hint))]
    return any(arm is list or typing.get_origin(arm) is list for arm in arms)
