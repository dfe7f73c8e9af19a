"""``~/.config/asap-eval/config.yaml``: the user's defaults, as if typed before every command."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from asap_eval.cli.experiment import written
from asap_eval.cli.overrides import WHAT, check, parsed
from asap_eval.errors import AsapEvalError, BadValueError

TABLES = ("experiment", "methods")
"""Keys that make a table of a run: they are for the command line."""


def user_file() -> Path:
    """Where the file lies; it need not be there."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "asap-eval" / "config.yaml"


def user_defaults(given: Collection[str], *, bare: bool) -> list[str]:
    """The file's keys as overrides, those left out that the command line sets itself.

    Args:
        given: keys of the command line. bare: it says nothing of what to run, which then is the
            bundled example, so that the file does not either.

    Raises:
        AsapEvalError: the file cannot be read, or has keys that do not exist.
    """
    file = user_file()
    if not file.is_file():
        return []
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if not isinstance(content, Mapping):
            raise BadValueError("it holds no keys; give key: value, one a line")
        found = dict(_leaves(content))
        check(parsed([f"{key}={value}" for key, value in found.items()]))
        if table := [key for key in found if key in TABLES]:
            raise BadValueError(f"{table[0]} is for the command line")
    except (OSError, ValueError, yaml.YAMLError, AsapEvalError) as error:
        raise BadValueError(f"{file} cannot be used: {error}") from error
    left_out = {*given, *(WHAT if bare else ())}
    return [f"{key}={value}" for key, value in found.items() if key not in left_out]


def _leaves(content: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Every value with its whole key, as Hydra reads it."""
    for name, value in content.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, written(value)
