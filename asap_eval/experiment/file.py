"""An experiment file as a whole, read from disk or as Hydra composed it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from yaml import YAMLError

from asap_eval.errors import BadValueError, UnknownNameError, unknown
from asap_eval.experiment.rows import Entry, entries_of
from asap_eval.paths import conf_dir

FILE = ("about", "common", "rows")
"""Keys of an experiment file."""


LAYOUTS = ("table", "grid", "claims", "law")


@dataclass(frozen=True)
class About:
    """What a table is.

    Attributes:
        paper: which table or figure of which paper. title: its head. asks: the question it answers.
        samples: images behind the published figures; by task where there are several.
        layout: ``table``; ``grid``: also top-1 over the two keys that are swept; ``claims``: also
            a verdict on each claim of the paper; ``law``: also the scaling law of tokens, fitted.
        notes: lines below the table.
    """

    paper: str | None = None
    title: str | None = None
    asks: str | None = None
    samples: int | dict[str, int] | None = None
    layout: Literal["table", "grid", "claims", "law"] = "table"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A file's name, what it says of itself, and its entries in order."""

    name: str
    about: About
    entries: list[Entry]

    @property
    def compares(self) -> bool:
        """Whether anything in it was published."""
        return any(entry.published for entry in self.entries)

    def on(self, model: str) -> Experiment:
        """The rows that run on one model."""
        return replace(self, entries=[e for e in self.entries if self.takes(e, model)])

    def takes(self, entry: Entry, model: str) -> bool:
        """Whether a row runs on a model: the one it names; a row that names none runs on that of
        ``common`` and on any that no row names.
        """
        if entry.model == model:
            return True
        return not entry.named and all(e.model != model for e in self.entries if e.named)


def parse(
    name: str, content: Mapping[str, Any], narrowed: Mapping[str, Sequence[Any]] | None = None
) -> Experiment:
    """An experiment from the content of its file.

    Args:
        narrowed: values from the command line that replace a sweep's.

    Raises:
        AsapEvalError: keys or values that an experiment file cannot have, with the row's number.
    """
    if stray := [key for key in content if key not in FILE]:
        error = unknown(f"key of the experiment file '{name}'", str(stray[0]), FILE)
        raise UnknownNameError(f"{error} What holds for every row goes into `common`.")
    about = _about(content.get("about") or {})
    entries = entries_of(content.get("rows"), content.get("common") or {}, narrowed)
    if about.layout == "grid":
        _check_grid(entries)
    return Experiment(name, about, entries)


def load(name: str) -> Experiment:
    """An experiment by its name in ``conf/experiment``, or by the path of a file.

    Raises:
        AsapEvalError: there is none of that name, or it is not an experiment file.
    """
    folder = conf_dir() / "experiment"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        raise unknown("experiment", name, [file.stem for file in folder.glob("*.yaml")])
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, UnicodeError, YAMLError) as error:
        raise BadValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise BadValueError(f"{path} is not an experiment file: give about, common and rows.")
    return parse(path.stem, {str(key): value for key, value in content.items()})


def experiments() -> list[str]:
    """Names in ``conf/experiment``: tables of the paper, its figures, others."""
    names = [path.stem for path in (conf_dir() / "experiment").glob("*.yaml")]
    return sorted(names, key=_place)


def _place(name: str) -> tuple[int, int, str]:
    kind, number = re.fullmatch(r"(\D*)(\d*).*", name).groups()  # type: ignore[union-attr]
    return ("table", "fig", kind).index(kind), int(number or 0), name


def bench_defaults(bench: str) -> dict[str, Any]:
    """Options of a benchmark with their defaults; {} where it has none or is unknown."""
    return dict(_bench_file(conf_dir() / "bench" / f"{bench}.yaml"))


@cache
def _bench_file(path: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _about(value: Any) -> About:
    if not isinstance(value, Mapping):
        raise BadValueError(f"about: {value!r}: give {{key: value}}.")
    known = [fact.name for fact in fields(About)]
    if stray := [key for key in value if key not in known]:
        raise unknown("key of `about`", str(stray[0]), known)
    for key in ("paper", "title", "asks"):
        if not isinstance(value.get(key, ""), str):
            raise BadValueError(f"about.{key}={value[key]!r}: give text.")
    samples = value.get("samples")
    counts = samples.values() if isinstance(samples, Mapping) else [samples]
    if samples is not None and not all(isinstance(n, int) and n > 0 for n in counts):
        raise BadValueError(f"about.samples={samples!r}: give a number of images, or one per task.")
    if (layout := value.get("layout", "table")) not in LAYOUTS:
        raise unknown("about.layout", str(layout), LAYOUTS)
    notes = value.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise BadValueError(f"about.notes={notes!r}: give a list of lines.")
    return About(**{**value, "notes": tuple(notes)})


def _check_grid(entries: Sequence[Entry]) -> None:
    axes = {tuple(entry.swept) for entry in entries if entry.swept}
    if len(axes) != 1 or len(next(iter(axes))) != 2:
        raise BadValueError("about.layout=grid: every sweep has to be over the same two keys.")
