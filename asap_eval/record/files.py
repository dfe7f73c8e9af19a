"""Records on disk: written whole or not at all, read with every key checked."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from asap_eval.errors import BadValueError, RecordError
from asap_eval.files.placed import placed
from asap_eval.record.job import SCHEMA
from asap_eval.record.result import RunRecord


def write_record(record: RunRecord, folder: Path) -> Path:
    """Put a record into a folder: all of it or nothing, even if the machine stops.

    Raises:
        OSError: the folder cannot be written (full disk, no permission); an older record of the
            same job is then still whole.
    """
    path = folder / f"{record.stem}.json"
    body = {"schema": record.schema, **dataclasses.asdict(record)}
    write_json(path, body)
    return path


def write_json(path: Path, body: Any) -> None:
    """Put a JSON file in place: all of it or nothing; errors as `write_record`."""
    with placed(path) as part, part.open("w", encoding="utf-8") as file:
        json.dump(body, file, indent=1, allow_nan=False)
        file.write("\n")


def read_record(path: Path) -> RunRecord:
    """One record.

    Raises:
        RecordError: the file is missing, torn, not a record, or of another schema.
    """
    if path.exists() and not path.is_file():  # a pipe would wait for ever
        raise RecordError(f"Cannot read the record {path}: it is not a file.")
    try:
        data = _json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"Cannot read the record {path}: {error.strerror}.") from error
    except ValueError as error:
        raise RecordError(f"{path} is not a whole JSON file ({error}).") from error
    if not isinstance(data, dict) or "schema" not in data or "key" not in data:
        raise RecordError(f"{path} is JSON, but not a record of this package.")
    if data["schema"] != SCHEMA:
        raise RecordError(
            f"{path} has schema {data['schema']}; this version reads {SCHEMA}. "
            "Run the job again, or use the version that wrote it."
        )
    record: RunRecord = _typed(RunRecord, data, path.name)
    return record


def read_records(folder: Path) -> tuple[list[tuple[Path, RunRecord]], list[RecordError]]:
    """All records below a folder in order of their paths, and what could not be read."""
    good: list[tuple[Path, RunRecord]] = []
    problems: list[RecordError] = []
    for path in sorted(folder.rglob("*.json")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            good.append((path, read_record(path)))
        except RecordError as error:
            problems.append(error)
    return good, problems


def _json(text: str) -> Any:
    """JSON as `write_record` writes it: numbers are finite, and text can be written again."""

    def refused(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    data = json.loads(text, parse_constant=refused)
    if "\\ud" in text.lower():
        json.dumps(data, ensure_ascii=False).encode()  # half a character cannot
    return data


def _typed(hint: Any, value: Any, where: str) -> Any:
    """JSON data as the declared type, or a `RecordError` that says where it differs."""
    if hint is Any or type(value) is hint:
        return value
    origin, arms = _parts(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arms:
            return None
        return _typed(next(a for a in arms if a is not type(None)), value, where)
    if origin is Literal:
        if value in arms:
            return value
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return _block(typing.cast("type[Any]", hint), value, where)
    elif origin is dict:
        if isinstance(value, Mapping):
            if arms[1] is Any:
                return dict(value)
            return {key: _typed(arms[1], item, f"{where}.{key}") for key, item in value.items()}
    elif origin is list:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [_typed(arms[0], item, where) for item in value]
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise RecordError(f"{where}: {value!r} is not what a record holds there.")


def _block(cls: type[Any], value: Mapping[str, Any], where: str) -> Any:
    hints, needed = _fields(typing.cast(Hashable, cls))
    if extra := sorted(set(value) - set(hints)):
        raise RecordError(f"{where}: unknown {', '.join(extra)}.")
    if missing := sorted(needed - set(value)):
        raise RecordError(f"{where}: {', '.join(missing)} is missing.")
    try:
        return cls(**{name: _typed(hints[name], v, f"{where}.{name}") for name, v in value.items()})
    except BadValueError as error:
        raise RecordError(f"{where}: {error}") from error


@cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


@cache
def _fields(cls: Hashable) -> tuple[dict[str, Any], frozenset[str]]:
    """Types of a block's keys, and the keys that it may not lack; looked up once a class."""
    needed = (
        f.name
        for f in dataclasses.fields(typing.cast(Any, cls))
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    return typing.get_type_hints(cls), frozenset(needed)
