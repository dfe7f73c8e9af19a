"""Command lines of ``key=value`` words, as the smaller commands have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asap_eval.errors import BadValueError, unknown


def settings_of(words: Sequence[str], defaults: Mapping[str, str], command: str) -> dict[str, str]:
    """The settings of a command line, those that are not given at their default.

    Args:
        defaults: every key the command has. command: its name, for errors.

    Raises:
        BadValueError: a word without a value, or a key twice. UnknownNameError: no such key.
    """
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise BadValueError(f"'{word}': give key=value, with a key of {', '.join(defaults)}.")
        if key not in defaults:
            raise unknown(f"key of {command}", key, defaults)
        if key in given:
            raise BadValueError(f"{key} is given twice: {given[key]} and {value}.")
        given[key] = value
    return {**defaults, **given}


def count_of(key: str, text: str) -> int | None:
    """A number of things, 0 for all of them (None).

    Raises:
        BadValueError: no whole number from 0 on.
    """
    if not text.isdecimal():
        raise BadValueError(f"{key}={text}: give a number, 0 for all.")
    return int(text) or None
