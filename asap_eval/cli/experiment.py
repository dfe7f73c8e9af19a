"""Experiment files: all rows of one table, each composed like a command line of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

from asap_eval.cli.overrides import check, keys_of, parsed
from asap_eval.cli.settings import Settings, settings_of
from asap_eval.errors import BadValueError, unknown

FILE = ("common", "rows")
"""Keys of an experiment file."""
FILTERS = ("model", "method")
"""On the command line these choose among the rows that name one."""


@dataclass(frozen=True)
class Row:
    """One row of a table: the overrides it was composed from, and what they mean."""

    overrides: list[str]
    settings: Settings


def rows_of(config: DictConfig, given: Sequence[str]) -> list[Row]:
    """All rows of the chosen experiment that the command line leaves.

    Args:
        config: as composed, with ``rows`` and ``common`` of the experiment file.
        given: overrides of the command line; they win over the file's, and ``model=`` and
            ``method=`` filter the rows that name one.

    Raises:
        BadValueError: the file has no rows. UnknownNameError: no row is left.
    """
    common = cast("dict[str, Any]", OmegaConf.to_container(config.common)) or {}
    rows = cast("list[dict[str, Any]]", OmegaConf.to_container(config.rows))
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise BadValueError("An experiment file needs `rows:`, a list of {key: value} overrides.")
    user = {override.key_or_group: override.input_line or "" for override in parsed(given)}
    # From here on the file is its rows: each is a command line of its own, as its record says.
    del user["experiment"]
    plain = compose("config", list(user.values()))
    if stray := [key for key in plain if key not in FILE and plain[key] != config[key]]:
        raise BadValueError(
            f"The experiment file sets {', '.join(map(str, stray))} beside `common` and `rows`: "
            "move it into `common`."
        )
    return [_row({**common, **row}, user) for row in _filtered(rows, common, user)]


def _filtered(
    rows: Sequence[dict[str, Any]], common: Mapping[str, Any], user: Mapping[str, str]
) -> list[dict[str, Any]]:
    left = list(rows)
    for name in FILTERS:
        if name not in user:
            continue
        wanted = user[name].partition("=")[2]
        named = {str({**common, **row}[name]) for row in left if name in {**common, **row}}
        left = [row for row in left if str({**common, **row}.get(name, wanted)) == wanted]
        if not left:
            raise unknown(f"{name} of this experiment", wanted, named)
    return left


def _row(row: Mapping[str, Any], user: Mapping[str, str]) -> Row:
    merged = {key: f"{key}={_text(value)}" for key, value in row.items()}
    merged.update(user)
    overrides = list(merged.values())
    check(parsed(overrides))
    config = compose("config", overrides, return_hydra_config=True)
    choice = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return Row(overrides, settings_of(config, choice, keys_of(overrides)))


def _text(value: Any) -> str:
    """A YAML value as Hydra's grammar writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(_text, value)) + "]"
    if re.fullmatch(r"[A-Za-z_./][\w./:@-]*", str(value)) and str(value) not in (
        "null",
        "true",
        "false",
    ):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
