"""Rows of an experiment file, one entry for each job: sweeps multiplied out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from asap_eval.errors import BadValueError, unknown
from asap_eval.experiment.published import Published, published_from
from asap_eval.record import Job

OWN = ("published", "reading", "sweep", "needs")
"""Keys of a row that are not overrides."""

KEYS = {key.name for key in fields(Job)} - {"params", "model_params", "bench_params"}
KEYS |= {"target", "tasks"}
"""What a row may set: all that decides the numbers of a job."""

GROUPS = ("model", "method", "bench", "budget")


@dataclass(frozen=True)
class Entry:
    """One job of an experiment.

    Attributes:
        overrides: its keys and values, those of ``common`` included.
        named: whether the row itself names its model; otherwise any model may take it.
        published: what the paper prints for it. needs: by key, what the row cannot run without.
        swept: values it got from its row's sweep. reading: what we took where the paper leaves it
            open.
    """

    overrides: dict[str, Any]
    named: bool = False
    published: Published | None = None
    needs: dict[str, str] = field(default_factory=dict)
    swept: dict[str, Any] = field(default_factory=dict)
    reading: str | None = None

    @property
    def method(self) -> str:
        return str(self.overrides.get("method", "none"))

    @property
    def bench(self) -> str:
        return str(self.overrides.get("bench", "imagenet"))

    @property
    def names_tasks(self) -> bool:
        """Whether its scores are those of several tasks."""
        return "tasks" in self.overrides or bool(self.published and self.published.tasks)

    def describe(self) -> str:
        """The row as a command line has it."""
        return " ".join(f"{key}={value}" for key, value in self.overrides.items())

    @property
    def model(self) -> str | None:
        """The model it runs on, and whose figures ``published`` holds."""
        return self.overrides.get("model")

    def lacks(self, given: Collection[str] = ()) -> str | None:
        """Why the row cannot run; None where nothing is missing.

        Args:
            given: keys of the command line.
        """
        missing = [f"{key}= ({what})" for key, what in self.needs.items() if key not in given]
        return f"it needs {' and '.join(missing)}" if missing else None

    @property
    def line(self) -> str:
        """Equal for entries that differ in their seed alone: they are one line of a table."""
        return json.dumps([without_seed(self.overrides), str(self.published)], sort_keys=True)


def without_seed(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in overrides.items() if key != "seed"}


def entries_of(
    rows: Any, common: Any, narrowed: Mapping[str, Sequence[Any]] | None = None
) -> list[Entry]:
    """All entries of a file in its order; a job named twice comes once.

    Args:
        rows, common: as they stand in the file. narrowed: values that replace a sweep's.

    Raises:
        AsapEvalError: what is no row, or a row that says nothing sensible.
    """
    if not isinstance(rows, list) or not rows or not all(isinstance(r, Mapping) for r in rows):
        raise BadValueError("An experiment file needs `rows:`, a list of {key: value} overrides.")
    if not isinstance(common, Mapping):
        raise BadValueError(f"common: {common!r}: give {{key: value}} overrides of every row.")
    _check_keys(common, "common")
    found: dict[str, Entry] = {}
    for number, row in enumerate(rows, 1):
        for entry in _entries(row, common, narrowed or {}, f"row {number}"):
            job = json.dumps([entry.overrides, str(entry.published)], sort_keys=True)
            found.setdefault(job, entry)
    return list(found.values())


def _entries(
    row: Mapping[str, Any],
    common: Mapping[str, Any],
    narrowed: Mapping[str, Sequence[Any]],
    where: str,
) -> Iterator[Entry]:
    own = {key: value for key, value in row.items() if key not in OWN}
    _check_keys(own, where)
    sweep = _sweep(row.get("sweep", {}), own, where)
    values = [narrowed.get(key, listed) for key, listed in sweep.items()]
    published = published_from(row["published"], where) if "published" in row else None
    needs = _needs(row.get("needs", {}), where)
    if not isinstance(reading := row.get("reading", ""), str):
        raise BadValueError(f"{where}: reading={reading!r}: give text.")
    for chosen in itertools.product(*values):
        swept = dict(zip(sweep, chosen, strict=True))
        named = "model" in own or "model" in swept
        merged = {**common, **own, **swept}
        yield Entry(merged, named, published, needs, swept, reading or None)


def _sweep(value: Any, own: Mapping[str, Any], where: str) -> dict[str, list[Any]]:
    if not isinstance(value, Mapping):
        raise BadValueError(f"{where}: sweep={value!r}: give {{key: [values]}}.")
    _check_keys(value, f"{where}, sweep")
    for key, listed in value.items():
        if not isinstance(listed, list) or not listed:
            raise BadValueError(f"{where}: sweep of {key}: {listed!r}: give a list of values.")
        if key in own:
            raise BadValueError(f"{where}: {key} stands in the row and in its sweep: drop one.")
    return dict(value)


def _needs(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise BadValueError(f"{where}: needs={value!r}: give {{key: what it has to be}}.")
    _check_keys(value, f"{where}, needs")
    return dict(value)


def _check_keys(row: Mapping[str, Any], where: str) -> None:
    for key in row:
        group, _, option = str(key).partition(".")
        if key not in KEYS and not (group in GROUPS and option):
            dotted = [f"{name}.<option>" for name in GROUPS]
            raise unknown(f"key of {where}", str(key), [*KEYS, *OWN, *dotted])
