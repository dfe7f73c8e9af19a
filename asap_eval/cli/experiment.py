"""Experiments on the command line: which rows run, each composed like a command line of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from asap_eval.cli.compose import Composed, composed
from asap_eval.cli.groups import GROUPS, subkeys
from asap_eval.cli.overrides import check, keys_of, opened, parsed
from asap_eval.cli.settings import Settings, settings_of
from asap_eval.errors import BadValueError, UnknownNameError, unknown
from asap_eval.experiment import Entry, Experiment, load, parse
from asap_eval.experiment.file import FILE
from asap_eval.experiment.rows import entries_of
from asap_eval.method import method_class
from asap_eval.paths import conf_dir
from asap_eval.runner.progress import say

DEFAULTS = {
    **{"method": "none", "bench": "imagenet", "budget": "none", "paths": "default"},
    "launch": "none",
}
"""What a row takes that names none, as ``conf/config.yaml`` has it."""


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
        """The model that runs, or as it was asked for."""
        if self.settings is not None:
            return self.settings.job.model
        chosen = [text.partition("=")[2] for text in self.overrides if text.startswith("model=")]
        return chosen[-1] if chosen else None


def check_files(names: Sequence[str], extra: Sequence[Path] = ()) -> None:
    """Refuse experiment files that Hydra would stumble over, or take keys from silently.

    Args:
        names: of experiments that exist. extra: folders of the user's own configuration.

    Raises:
        AsapEvalError: a file is no YAML, or says what an experiment cannot.
    """
    for name in names:
        places = [root / "experiment" / f"{name}.yaml" for root in (*extra, conf_dir())]
        load(str(next(place for place in places if place.exists())))


def rows_of(made: Composed) -> tuple[Experiment, list[Row]]:
    """The chosen experiment, and the rows of it that the command line leaves.

    Args:
        made: with ``about``, ``common`` and ``rows`` of the experiment file. Overrides of the
            command line win over the file's. ``model=`` and ``method=`` choose among the rows; a
            key that a row sweeps narrows the sweep (``k=[2,4]`` nothing else, ``k=2`` is for every
            row); an option of a group (``method.tau=``, ``budget.samples=``) is for the rows whose
            choice has it.

    Raises:
        AsapEvalError: the file is none, or no row is left.
    """
    config = made.config
    user = {override.key_or_group: override for override in parsed(made.overrides)}
    name = str(user.pop("experiment").value())
    content = {key: OmegaConf.to_container(config[key]) for key in FILE if config[key] is not None}
    # model= and method= choose among the rows below; no row becomes another one through them.
    narrowed = {key: _values(o) for key, o in user.items() if key not in ("model", "method")}
    experiment = parse(name, content, narrowed)
    swept = {key for entry in experiment.entries for key in entry.swept}
    # Several values narrow sweeps alone; a row without a sweep of that key could not take them.
    user = {k: o for k, o in user.items() if not (k in swept and isinstance(o.value(), list))}
    entries = _of_method(_of_model(experiment, user), user)
    _check_options(entries, user)
    # A file is whole: what it leaves out are the methods' own defaults, today and later.
    user.setdefault("settings", parsed(["settings=none"])[0])
    return experiment, [_row(entry, user, made.extra) for entry in entries]


def rows_of_methods(made: Composed) -> list[Row]:
    """The same command line with each method of ``methods=[...]``, in its order.

    An option of a method is for those that have it, and so are ``k`` and a budget.

    Raises:
        AsapEvalError: no list of methods, a method beside it, or an option that none of them has.
    """
    config = made.config
    user = {override.key_or_group: override for override in parsed(made.overrides)}
    names = OmegaConf.to_container(config.methods) if OmegaConf.is_list(config.methods) else None
    if not names or "method" in user:
        raise BadValueError(
            f"methods={config.methods}: give a list such as methods=[asap,tome], without method=."
        )
    del user["methods"]
    entries = entries_of([{"method": str(name)} for name in names], {})
    _check_options(entries, user, f"methods={config.methods}")
    turning = {key for key in user if key in ("k", "target") or key.split(".")[0] == "budget"}
    without = [e.method for e in entries if turning and not method_class(e.method).card.knob]
    if len(without) == len(entries):
        without = []  # k or the budget is an error then, which each row tells
    if without:
        say(f"Methods without a knob run as they are: {', '.join(without)}.")
    still = {key: override for key, override in user.items() if key not in turning}
    return [
        replace(_row(e, still if e.method in without else user, made.extra), entry=None)
        for e in entries
    ]


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


def _check_options(
    entries: Sequence[Entry], user: Mapping[str, Override], what: str = "this experiment"
) -> None:
    for key in user:
        if not any(_fits(key, entry, user) for entry in entries):
            named = ", ".join(sorted({entry.method for entry in entries}))
            raise UnknownNameError(
                f"No row left of {what} has the option {key} (methods: {named}): leave it out."
            )


def _fits(key: str, entry: Entry, user: Mapping[str, Override]) -> bool:
    """Whether a key of the command line is for a row: an option is, where its choice has it."""
    group, _, option = key.partition(".")
    if group not in GROUPS or not option:
        return True
    chosen = entry.overrides.get(group, DEFAULTS.get(group))
    if group in user:
        chosen = user[group].value()
    return option.split(".")[0] in subkeys(group, [str(chosen)])


def _row(entry: Entry, user: Mapping[str, Override], extra: Sequence[Path]) -> Row:
    merged = {key: opened(f"{key}={written(value)}") for key, value in entry.overrides.items()}
    for key, override in user.items():
        # A swept key has its values from the command line already.
        if key not in entry.swept and _fits(key, entry, user):
            merged[key] = opened(str(override.input_line).lstrip("+"))
    overrides = list(merged.values())
    check(parsed(overrides), extra)
    if reason := entry.lacks(user):
        return Row(overrides, None, entry, reason)
    row = composed(overrides, extra)
    return Row(overrides, settings_of(row.config, row.choices, keys_of(overrides)), entry)


def _values(override: Override) -> list[Any]:
    value = override.value()
    return value if isinstance(value, list) else [value]


def written(value: Any) -> str:
    """A YAML value as Hydra's grammar writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(written, value)) + "]"
    if re.fullmatch(r"[A-Za-z_./][\w./:@-]*", str(value)) and str(value) not in (
        "null",
        "true",
        "false",
    ):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
