"""Experiments on the command line: which rows run, each composed like a command line of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from asap_eval.cli.groups import method_defaults
from asap_eval.cli.overrides import check, parsed
from asap_eval.cli.settings import Settings, settings_of
from asap_eval.errors import BadValueError, UnknownNameError, unknown
from asap_eval.experiment import Entry, Experiment, parse
from asap_eval.experiment.file import FILE


@dataclass(frozen=True)
class Row:
    """One job of a table.

    Attributes:
        overrides: what it was composed from. entry: its place in the experiment file, None for a
            plain command line. settings: what it means; None where it cannot run: ``reason``.
    """

    overrides: list[str]
    settings: Settings | None
    entry: Entry | None = None
    reason: str | None = None

    @property
    def model(self) -> str | None:
        """The model as it was asked for."""
        chosen = [text.partition("=")[2] for text in self.overrides if text.startswith("model=")]
        return chosen[-1] if chosen else None


def rows_of(config: DictConfig, given: Sequence[str]) -> tuple[Experiment, list[Row]]:
    """The chosen experiment, and the rows of it that the command line leaves.

    Args:
        config: as composed, with ``about``, ``common`` and ``rows`` of the experiment file.
        given: overrides of the command line; they win over the file's. ``model=`` and ``method=``
            choose among the rows; a key that a row sweeps narrows the sweep; an option of a method
            is for the rows whose method has it.

    Raises:
        AsapEvalError: the file is none, or no row is left.
    """
    user = {override.key_or_group: override for override in parsed(given)}
    name = str(user.pop("experiment").value())
    _check_stray(config, user)
    content = {key: OmegaConf.to_container(config[key]) for key in FILE if config[key] is not None}
    experiment = parse(name, content, {key: _values(override) for key, override in user.items()})
    entries = _of_method(_of_model(experiment, user), user)
    _check_options(entries, user)
    return experiment, [_row(entry, user) for entry in entries]


def _check_stray(config: DictConfig, user: Mapping[str, Override]) -> None:
    """From here on the file is its rows: each is a command line of its own, as its record says."""
    plain = compose("config", [str(override.input_line) for override in user.values()])
    stray = [key for key in config if key not in FILE]
    if stray := [key for key in stray if key not in plain or plain[key] != config[key]]:
        raise BadValueError(
            f"The experiment file sets {', '.join(map(str, stray))} beside {', '.join(FILE)}: "
            "move it into `common`."
        )


def _of_model(experiment: Experiment, user: Mapping[str, Override]) -> list[Entry]:
    if "model" not in user:
        return experiment.entries
    wanted = str(user["model"].value())
    if left := [entry for entry in experiment.entries if experiment.takes(entry, wanted)]:
        return left
    named = {str(entry.model) for entry in experiment.entries}
    raise unknown("model of this experiment", wanted, named)


def _of_method(entries: Sequence[Entry], user: Mapping[str, Override]) -> list[Entry]:
    if "method" not in user:
        return list(entries)
    wanted = str(user["method"].value())
    if left := [entry for entry in entries if entry.method == wanted]:
        return left
    raise unknown("method of this experiment", wanted, {entry.method for entry in entries})


def _check_options(entries: Sequence[Entry], user: Mapping[str, Override]) -> None:
    for key in user:
        if not any(_fits(key, entry.method) for entry in entries):
            named = ", ".join(sorted({entry.method for entry in entries}))
            raise UnknownNameError(
                f"{key} is an option of no method of these rows ({named}): leave it out."
            )


def _fits(key: str, method: str) -> bool:
    """Whether a key of the command line is for a row: always, but for other methods' options."""
    group, _, option = key.partition(".")
    return group != "method" or not option or option.split(".")[0] in method_defaults(method)


def _row(entry: Entry, user: Mapping[str, Override]) -> Row:
    merged = {key: f"{key}={_text(value)}" for key, value in entry.overrides.items()}
    missing = dict(entry.needs)
    for key, override in user.items():
        # A swept key has its values from the command line already.
        if key not in entry.swept and _fits(key, entry.method):
            merged[key] = str(override.input_line).lstrip("+")
            missing.pop(key, None)
    overrides = list(merged.values())
    check(parsed(overrides))
    if missing:
        reason = " and ".join(f"{key}= ({what})" for key, what in missing.items())
        return Row(overrides, None, entry, f"it needs {reason}")
    config = compose("config", overrides, return_hydra_config=True)
    choice = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return Row(overrides, settings_of(config, choice), entry)


def _values(override: Override) -> list[Any]:
    value = override.value()
    return value if isinstance(value, list) else [value]


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
