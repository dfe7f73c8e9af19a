"""Configurations that Hydra composes, from ``conf/`` and from folders of the user's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict

from asap_eval.cli.groups import ANYTHING, TIMM, choices, method_defaults
from asap_eval.cli.overrides import opened, parsed, values_of
from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.paths import conf_dir
from asap_eval.registry import METHODS


@dataclass(frozen=True)
class Composed:
    """A configuration and what it was composed from.

    Attributes:
        config: the configuration. overrides: of the command line. choices: what each config group
            came to. extra: folders of the user's own configuration.
    """

    config: DictConfig
    overrides: list[str]
    choices: dict[str, Any]
    extra: tuple[Path, ...] = ()


_STORED: dict[str, type] = {}
"""Methods whose options Hydra has already, by name: a table composes each of its rows."""


def _register_choices(overrides: Sequence[str], extra: Sequence[Path]) -> None:
    """Every method of ours, and what else is asked for, as choices of config groups: methods of
    installed packages and models of timm."""
    from asap_eval.method import method_class  # with torch, which takes a second

    store = ConfigStore.instance()
    chosen = [o for o in parsed(overrides) if o.key_or_group == "method"]
    asked = {name for one in chosen for name in values_of(one)} & {*METHODS.names()}
    for name in {*METHODS.at_hand(), *asked}:
        if _STORED.get(name) is not method_class(name):
            store.store(name, node=method_defaults(name), group="method", provider="asap_eval")
            _STORED[name] = method_class(name)
    store.store(TIMM, node=dict(ANYTHING), group="model", provider="asap_eval")
    models = [o for o in parsed(overrides) if o.key_or_group == "model"]
    for name in {name for one in models for name in values_of(one)} - {*choices("model", extra)}:
        node = {**ANYTHING, "name": name, "timm": name}
        store.store(name, node=node, group="model", provider="timm")


def composed(overrides: Sequence[str], extra: Sequence[Path] = ()) -> Composed:
    """The configuration that overrides ask for.

    Raises:
        AsapEvalError: Hydra cannot compose it.
    """
    own = [override for override in overrides if not override.startswith("hydra.")]
    overrides = [opened(override) for override in overrides]
    _register_choices(overrides, extra)
    try:
        with initialize_config_dir(str(conf_dir()), job_name="asap-eval", version_base="1.3"):
            given = [*overrides, *_searched(extra)]
            config = compose("config", given, return_hydra_config=True)
    except HydraException as error:
        causes = [str(one) for one in (error, error.__cause__) if one is not None]
        raise AsapEvalError(" ".join(" ".join(causes).split())) from error
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return Composed(config, own, choices, tuple(extra))


def _searched(extra: Sequence[Path]) -> list[str]:
    """How Hydra is told of folders to search beside ``conf/``."""
    if not extra:
        return []
    quoted = (str(folder.absolute()).replace("\\", "\\\\").replace("'", "\\'") for folder in extra)
    return ["hydra.searchpath=[" + ",".join(f"'file://{folder}'" for folder in quoted) + "]"]


def swept(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of the values that overrides name (``k=2,4``), the last key fastest.

    Raises:
        BadValueError: a range that has no list of values, such as ``interval(0,1)``.
    """
    values: dict[str, list[str]] = {}
    for override in parsed(overrides):
        key = override.get_key_element()
        if override.is_delete():
            values[key] = [str(override.input_line)]
        elif not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise BadValueError(f"{override.input_line} names no list of values: give k=2,4,8.")
    return [list(one) for one in itertools.product(*values.values())]
