"""Options of a method or a benchmark: the fields of a dataclass, each checked against its type."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, Literal

from asap_eval.errors import AsapEvalError, BadValueError, unknown


def options(cls: type[Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, resolved type and default of every option."""
    hints = typing.get_type_hints(cls)
    for option in fields(cls):
        made = option.default_factory
        default = option.default if made is MISSING else made()
        yield option.name, hints[option.name], default


def words(hint: Any) -> list[str]:
    """The words that an option takes beside numbers: those of a `Literal` in a union."""
    arms = [arm for arm in typing.get_args(hint) if typing.get_origin(arm) is Literal]
    return [str(word) for arm in arms for word in typing.get_args(arm)]


def checked(where: str, value: Any, hint: Any) -> Any:
    """The value as its declared type, or an error that says what the type allows."""
    if isinstance(value, float) and math.isnan(value):
        raise BadValueError(f"{where}=nan: give a number.")
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    if choices:
        if value in choices:
            return value
        raise unknown(f"value of {where}", str(value), map(str, choices))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        for arm in typing.get_args(hint):
            if arm is not type(None):
                try:
                    return checked(where, value, arm)
                except AsapEvalError:
                    continue
        if isinstance(value, str) and (known := words(hint)):
            raise unknown(f"value of {where}", value, [*known, "a number"])
        raise BadValueError(f"{where}={value!r} is not of type {hint}.")
    if typing.get_origin(hint) is list:
        if not isinstance(value, list):
            raise BadValueError(f"{where}={value!r} should be a list, for instance [{value}].")
        return [checked(where, item, typing.get_args(hint)[0]) for item in value]
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if inspect.isclass(hint) and (not isinstance(value, hint) or (hint is int and value is True)):
        raise BadValueError(f"{where}={value!r} should be of type {hint.__name__}.")
    return value
