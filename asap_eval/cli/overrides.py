"""The command line checked before Hydra composes: its own errors name no near names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from asap_eval.cli.groups import (
    ANYTHING,
    GROUPS,
    choices,
    near_of_timm,
    of_timm,
    root_keys,
    subkeys,
)
from asap_eval.errors import BadValueError, UnknownNameError, unknown

WHAT = ("model", "method", "methods", "bench", "data", "images", "experiment")
"""Keys that say what to run; without any of them the bundled example runs."""

WEIGHTS = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar")
"""Endings of files of weights."""


def parsed(overrides: Sequence[str]) -> list[Override]:
    """The overrides of a command line.

    Raises:
        BadValueError: one of them is not of the form key=value.
    """
    parser = OverridesParser.create()
    found = []
    for text in overrides:
        try:
            found.append(parser.parse_override(text))
        except HydraException as error:
            if "=" not in text:
                raise BadValueError(f"'{text}' cannot be read: {_bare(text)}") from error
            if text.rstrip().endswith(","):
                raise BadValueError(f"'{text}' ends in a comma: leave that out.") from error
            first = str(error).split("\n")[0]
            raise BadValueError(
                f"'{text}' cannot be read ({first}). Give key=value; quote values with spaces or "
                "one of ,=(){}[]: data=\"'my folder'\"."
            ) from error
    return found


def _bare(word: str) -> str:
    """What is to be said of a word without a value."""
    if word in (*GROUPS, *root_keys()):
        known = choices(word) if word in GROUPS else []
        return f"it stands without a value. Give {word}=<value>" + (
            f", for instance {word}={known[0]}." if known else "."
        )
    for group in GROUPS:
        if word in choices(group):
            return f"there is no key before it. Give {group}={word}."
    return "give key=value. asap-eval --help lists the keys."


def opened(text: str) -> str:
    """An override of a model's option as Hydra takes it: a key that its file may lack."""
    plain = text.lstrip("+")
    group, _, option = plain.partition("=")[0].partition(".")
    return f"++{plain}" if group == "model" and option.split(".")[0] in ANYTHING else text


def keys_of(overrides: Sequence[str]) -> set[str]:
    """Keys that a command line sets."""
    return {override.key_or_group for override in parsed(overrides)}


def names_a_run(overrides: Sequence[Override]) -> bool:
    """Whether anything says what to run."""
    return any(override.key_or_group.split(".")[0] in WHAT for override in overrides)


def check(overrides: Sequence[Override], extra: Sequence[Path] = ()) -> None:
    """Refuse keys, choices and options that do not exist.

    Args:
        extra: folders of the user's own configuration.

    Raises:
        UnknownNameError: with near names and the list.
    """
    chosen = {o.key_or_group: values_of(o) for o in overrides if o.key_or_group in GROUPS}
    for key in (o.key_or_group for o in overrides if not o.is_hydra_override()):
        if key.partition(".")[0] not in (*GROUPS, *root_keys()):
            raise _unknown_key(key)  # first: a choice may come from what it misspells
    for group, names in chosen.items():
        offered = choices(group, extra)
        for name in names:
            if name not in offered and not (group == "model" and of_timm(name)):
                raise _unknown_choice(group, name, offered)
    for override in overrides:
        key = override.key_or_group
        head, _, option = key.partition(".")
        if override.is_hydra_override() or key in GROUPS:
            continue
        if head in GROUPS and option:
            known = subkeys(head, chosen.get(head, ()), extra)
            if option.split(".")[0] not in known:
                where = f" of {head} {' and '.join(chosen[head])}" if chosen.get(head) else ""
                raise unknown(f"option{where}", key, [f"{head}.{name}" for name in known])
            # A sweep composes every choice with every option, also where it lacks it.
            first = option.split(".")[0]
            without = [n for n in chosen.get(head, ()) if first not in subkeys(head, [n], extra)]
            if without:
                raise BadValueError(
                    f"{key}: {' and '.join(without)} has no such option. Sweep the choices that "
                    "have it in a command of their own, or leave it out."
                )


def values_of(override: Override) -> list[str]:
    """Choices of a group override; several in a sweep."""
    if override.is_sweep_override():
        return list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
    value = override.value()
    return [] if value is None else [str(value)]


def each_of(override: Override) -> list[str]:
    """Values of a key that takes one or a list, with brackets or without."""
    value = override.value()
    return [str(one) for one in value] if isinstance(value, list) else values_of(override)


def _unknown_choice(group: str, name: str, offered: Sequence[str]) -> UnknownNameError:
    error = unknown(group, name, offered)
    if group == "model" and Path(name).suffix in WEIGHTS:
        return UnknownNameError(
            f"model={name} is a file: model= names the architecture. Give model=<name of timm's> "
            f"weights={name}, with model.num_classes=<n> for classes of your own."
        )
    if group == "method" and Path(name).suffix == ".py":
        return UnknownNameError(
            f"method={name} is a file: give plugins={name} method=<the name it registers>."
        )
    if group == "budget" and name.lstrip("-").replace(".", "", 1).isdecimal():
        return UnknownNameError(f"budget={name} is a target: give budget=macs target={name}.")
    if group == "model":
        return UnknownNameError(
            f"{error} Any Vision Transformer of timm by timm's name, too{near_of_timm(name)}."
        )
    return error


def _unknown_key(key: str) -> UnknownNameError:
    for group in ("method", "model", "bench", "budget", "train"):
        if key in subkeys(group, ()):
            return UnknownNameError(
                f"Unknown key '{key}'. As an option of the {group}: {group}.{key}="
            )
    return unknown("key", key, [*root_keys(), *GROUPS, "method.<option>"])
