"""The confidence intervals of finished records, computed again from their per-sample files.

No model runs and no image is read; the code is what a run calls. Everything else that those files
give has to be what the record says, and stays as it is.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from asap_eval.bench.bench import build_bench
from asap_eval.bench.image_bench import ImageBench
from asap_eval.errors import RecordError
from asap_eval.models import ModelSpec, load_model
from asap_eval.record import RunRecord
from asap_eval.record.files import write_json
from asap_eval.record.journal import Journal, Rows, Stored
from asap_eval.runner.calibration import evaluated
from asap_eval.runner.earlier_records import Kept, damage
from asap_eval.runner.lock import locked
from asap_eval.work.rows import readable

EQUAL = 1e-9
"""Relative difference up to which two numbers are the same number, added up in another order."""

Place = tuple[str | int, ...]
"""Keys and positions that lead to a value of a record."""


def recompute(kept: Kept, others: Mapping[str, Kept]) -> int:
    """Write one record with today's intervals.

    Args:
        kept: a record that is done. others: records by their key, its baseline among them.

    Returns:
        Intervals that changed; a record in which none did is not written.

    Raises:
        RecordError: the samples of the record or of its baseline are not all there, or do not give
            what the record says. It is then as it was.
    """
    path, record = kept
    old = dataclasses.asdict(record)
    if not any(_intervals(old)):
        return 0
    with locked(path):
        moved = dict(_moved(old, dataclasses.asdict(_anew(kept, others)), path.name))
        if moved:
            _write(path, moved)
    return len(moved)


def _anew(kept: Kept, others: Mapping[str, Kept]) -> RunRecord:
    """The record as a run would write it today, where it has intervals."""
    path, record = kept
    job, fresh = record.job, copy.deepcopy(record)
    rows = _rows(kept)
    bench = build_bench(job.bench, **job.bench_params)
    geometry = None
    if not bench.vlm:  # language models' rows say all that is asked of them
        given = (json.dumps(params) for params in (job.bench_params, job.model_params))
        geometry = _geometry(job.bench, job.model, *given)
    if fresh.provenance.calibration is not None:
        evaluated(fresh.provenance.calibration, bench, job, geometry, rows)
    if isinstance(bench, ImageBench) and geometry is not None:
        fresh.analysis = bench.analysis(readable(rows, "images"), geometry)
    if record.baseline is not None:
        if record.baseline.key not in others:
            raise RecordError(
                f"{path}: the record of its baseline ({record.baseline.key[:12]}) is not in this "
                "folder. Put it there, or run the job again."
            )
        unpruned = others[record.baseline.key]
        bench.compare(fresh, unpruned[1], rows, _rows(unpruned))
    return fresh


def _rows(kept: Kept) -> Rows:
    """All samples of a record."""
    path, record = kept
    if record.samples is None:
        raise RecordError(f"{path} names no per-sample file: run the job again.")
    if why := damage(path, record):
        raise RecordError(f"{why} Put the whole file back, or run the job again.")
    journal, count = Journal(path.parent / record.samples), record.provenance.data["n"]
    if (there := sum(1 for _ in journal.lines())) != count:
        raise RecordError(
            f"{journal.path} has {there} samples, its record says {count}. Put the whole file "
            "back, or run the job again."
        )
    return Stored(journal, count)


@lru_cache(maxsize=4)
def _geometry(bench: str, model: str, bench_params: str, model_params: str) -> Any:
    """The geometry of an image model as a benchmark runs it; no weights, no head."""
    bare = {"head": None, "labels": "none", "classes": None}
    spec = ModelSpec(model, **{**json.loads(model_params), **bare})
    run = build_bench(bench, **json.loads(bench_params))
    return run.geometry(run.adapted(load_model(spec, weights="random")))


def _intervals(value: Any, at: Place = ()) -> Iterator[Place]:
    """Where the intervals of a record stand."""
    inner: Iterable[tuple[str | int, Any]] = enumerate(value) if _is_list(value) else ()
    if isinstance(value, Mapping):
        inner = value.items()
    for key, part in inner:
        if not _is_interval(key):
            yield from _intervals(part, (*at, key))
        elif part is not None:
            yield (*at, key)


def _is_interval(key: str | int) -> bool:
    return str(key) == "ci95" or str(key).endswith("_ci95")


def _moved(old: Any, new: Any, where: str, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Intervals that changed, by place; keys that an older record lacks are ignored.

    Raises:
        RecordError: something else changed.
    """
    if at and _is_interval(at[-1]):
        if not _same(old, new):
            yield at, new
    elif isinstance(old, Mapping) and isinstance(new, Mapping) and set(old) <= set(new):
        for key, part in old.items():
            yield from _moved(part, new[key], f"{where}.{key}", (*at, key))
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for place, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _moved(one, other, f"{where}.{place}", (*at, place))
    elif not _same(old, new):
        raise RecordError(
            f"{where} is {old!r}, but its samples give {new!r}: the record and its per-sample file "
            "are not of one run. Run the job again."
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _same(old: Any, new: Any) -> bool:
    """Whether two values are equal, lists of numbers but for the order of adding up."""
    if _is_list(old) and _is_list(new):
        return len(old) == len(new) and all(map(_same, old, new))
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (old, new))
    return math.isclose(old, new, rel_tol=EQUAL, abs_tol=1e-12) if numbers else bool(old == new)


def _write(path: Path, moved: Mapping[Place, Any]) -> None:
    """Put intervals into a record's file: all of them or none."""
    data = json.loads(path.read_text(encoding="utf-8"))
    for place, bounds in moved.items():
        block = data
        for key in place[:-1]:
            block = block[key]
        block[place[-1]] = bounds
    write_json(path, data)
