"""The end of a job: its rows become a record that is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from asap_eval.errors import DataError
from asap_eval.method import Reducer
from asap_eval.record import RunRecord
from asap_eval.record.journal import Rows
from asap_eval.runner.calibration import evaluated
from asap_eval.runner.earlier_records import Kept, files_of, rows_of_baseline
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.progress import bar
from asap_eval.work.rows import counted_block

SPEED_ROUNDS = 30
"""Counted rounds of a speed measurement."""


def conclude(
    ready: Prepared,
    path: Path,
    record: RunRecord,
    rows: Rows,
    baseline: Kept | None,
    speed: Callable[[], dict[str, Any]],
    forget: Callable[[], None],
) -> None:
    """Put everything into a record that the rows decide, and speed if it was asked for.

    The record is ``done`` then; writing it is left to the caller, who holds the job's lock.

    Args:
        path: of the record, its per-sample file beside it. baseline: the unpruned model's record,
            to compare with. speed: measures it, where the job asks for it (`speed_of`). forget:
            throws the rows and the calibration away, where the data changed on the way.
    """
    try:
        ready.check_content()
    except DataError:
        forget()
        record.provenance.calibration = None  # what measure writes shares it
        raise
    _summarise(ready, record, rows, baseline)
    if ready.job.speed:
        record.speed = speed()
    record.files = files_of(path, record)
    record.status = "done"


def _summarise(ready: Prepared, record: RunRecord, rows: Rows, baseline: Kept | None) -> None:
    job = ready.job
    summary = ready.bench.summarise(rows, ready.geometry, job.macs_convention)
    record.metrics, record.macs = summary.metrics, summary.macs
    record.tokens, record.fired = summary.tokens, summary.fired
    record.counted = counted_block(ready.reducer.tallies, rows)
    record.tasks, record.analysis = summary.tasks, summary.analysis
    record.speed, record.latency_ms = summary.speed, summary.latency_ms
    record.memory_gb = summary.memory_gb
    record.arrays = ready.bench.finish(rows, ready.geometry)
    record.provenance.failures = [
        {"id": row["id"], "message": row["error"]} for row in rows if row["error"] is not None
    ]
    if record.provenance.calibration is not None:
        evaluated(record.provenance.calibration, ready.bench, job, ready.geometry, rows)
    if baseline is not None:
        ready.bench.compare(record, baseline[1], rows, rows_of_baseline(baseline))


def speed_of(ready: Prepared, reducer: Reducer) -> dict[str, Any]:
    """Speed of the model with the method, on the device that it lies on."""
    with bar(f"speed {ready.job.method}", None) as advance:
        return ready.bench.speed(
            ready.loaded,
            reducer,
            ready.samples,
            batch_size=ready.job.batch_size,
            seed=ready.job.seed,
            rounds=SPEED_ROUNDS,
            progress=lambda: advance(1),
        )
