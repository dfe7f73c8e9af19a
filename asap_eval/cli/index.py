"""What methods and benchmarks say of themselves, without importing them every time.

Their cards, needs and options are code, and importing all of it takes seconds. They are read once
and kept in the cache folder under a hash of the sources they come from; where that folder cannot be
written they are read every time.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import types
import typing
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from asap_eval.paths import PACKAGE, cache_folder
from asap_eval.registry import METHODS

SOURCES = ("method.py", "options.py", "methods", "bench", "cli", "train/method/job.py")
"""Files and folders that an entry can depend on."""


COMMANDS = {
    "ls": "asap_eval.cli.ls:Asked",
    "jobs": "asap_eval.cli.jobs:Asked",
    "report": "asap_eval.cli.report.options:Asked",
    "report cases": "asap_eval.cli.report.cases:Listing",
    "report diff": "asap_eval.cli.report.diff:Asked",
    "report html": "asap_eval.cli.report.page:Asked",
    "report pictures": "asap_eval.cli.report.pictures:Asked",
    "report all": "asap_eval.cli.report.paper:Asked",
    "train": "asap_eval.train.method.job:TrainJob",
    "head": "asap_eval.cli.head:Asked",
    "strip": "asap_eval.cli.strip:Asked",
    "cases": "asap_eval.cli.cases:Drawing",
    "check": "asap_eval.cli.check:Asked",
    "new": "asap_eval.cli.new:Asked",
    "recompute": "asap_eval.cli.recompute:Asked",
    "doctor": "asap_eval.cli.doctor:Asked",
    "completion": "asap_eval.cli.completion:Asked",
}
"""Commands and their options."""


@dataclass(frozen=True)
class Option:
    """An option as a person reads it: its type and default as text."""

    name: str
    kind: str
    default: str


@dataclass(frozen=True)
class Described:
    """A method or a benchmark.

    Attributes:
        said: a method's card with its needs, or a benchmark's ``description``.
    """

    name: str
    options: list[Option]
    said: dict[str, Any]


@dataclass(frozen=True)
class Index:
    """Everything of ours that is registered, and the commands beside a run, by name."""

    methods: dict[str, Described]
    benches: dict[str, Described]
    commands: dict[str, Described]


def index() -> Index:
    """The index of the present sources, from the cache where it is there."""
    path = cache_folder() / f"index-{_digest()}.json"
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError):
        text = json.dumps(asdict(_read()))
        with suppress(OSError):
            _keep(text, path)
        content = json.loads(text)  # tuples are lists then, as in every later call
    return Index(**{kind: _entries(found) for kind, found in content.items()})


def _entries(found: dict[str, Any]) -> dict[str, Described]:
    return {
        name: Described(name, [Option(**option) for option in entry["options"]], entry["said"])
        for name, entry in found.items()
    }


def _keep(text: str, path: Path) -> None:
    from asap_eval.report.text import save

    for old in path.parent.glob("index-*.json"):
        old.unlink(missing_ok=True)
    save(text, path)


def _digest() -> str:
    digest = hashlib.sha256()
    for name in SOURCES:
        place = PACKAGE / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{file.relative_to(PACKAGE)}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _read() -> Index:
    from asap_eval.bench.bench import benches

    return Index(
        {name: described(name, METHODS.get(name)) for name in METHODS.places},
        {
            name: Described(name, _options(cls), {"description": cls.description})
            for name, cls in benches().items()
        },
        {name: Described(name, _options(_class(place)), {}) for name, place in COMMANDS.items()},
    )


def described(name: str, cls: type[Any]) -> Described:
    """What a method says of itself."""
    needs = sorted(need.value for need in cls().needs)
    return Described(name, _options(cls), {**asdict(cls.card), "needs": needs})


def _class(place: str) -> type[Any]:
    module, _, name = place.partition(":")
    return cast("type[Any]", getattr(importlib.import_module(module), name))


def _options(cls: type[Any]) -> list[Option]:
    from asap_eval.options import options

    return [
        Option(option, type_name(hint), "none" if default is None else str(default))
        for option, hint, default in options(cls)
        if typing.get_origin(hint) is not dict  # `method.<option>=`: the method says which
    ]


def type_name(hint: Any) -> str:
    """A type as a person would write the choices: ``pool | prune``, ``int | none``."""
    arms = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, arms))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join("none" if arm is type(None) else type_name(arm) for arm in arms)
    return str(getattr(hint, "__name__", hint))
