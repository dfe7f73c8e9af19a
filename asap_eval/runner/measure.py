"""One job measured: its samples batch by batch into rows, the rows into a record."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from asap_eval.bench.first_samples import FirstSamples
from asap_eval.errors import DataError, SetUpError
from asap_eval.method import Reducer
from asap_eval.record import RunRecord, write_record
from asap_eval.record.journal import Journal, Row
from asap_eval.runner.calibration import calibrate, evaluated
from asap_eval.runner.earlier_records import (
    Kept,
    files_of,
    interrupted,
    journal_of,
    rows_of_baseline,
)
from asap_eval.runner.machine_errors import described
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.progress import bar, say
from asap_eval.runner.provenance import Request
from asap_eval.runner.started_record import started_record

SPEED_ROUNDS = 30
"""Counted rounds of a speed measurement."""


def measure(
    ready: Prepared,
    path: Path,
    request: Request,
    baseline: Kept | None,
    *,
    anew: bool,
    workers: int,
) -> RunRecord:
    """Measure a job whose lock is held; record and journal on the disk are true all the time.

    Args:
        path: of the record. request: what the record says of how it was asked for.
        baseline: the unpruned model's record, to compare with. anew: whether what an interrupted
            run left is thrown away. workers: processes that load images.
    """
    begin = time.perf_counter()
    journal = journal_of(path)
    earlier = None if anew else interrupted(path)
    if earlier is None:
        journal.remove()
    record = started_record(ready, earlier, journal.path.name, request)
    begun = dataclasses.replace(record)
    write_record(record, path.parent)
    try:
        reducer = _reducer(ready, record, path.parent, workers)
        rows = _rows(ready, reducer, path, journal, workers)
        _check_content(ready, record, journal)
        _conclude(ready, record, rows, baseline)
        if ready.job.speed:
            _add_speed(ready, reducer, record)
        record.files = files_of(path, record)
        record.status = "done"
        record.provenance.duration_s = time.perf_counter() - begin
        write_record(record, path.parent)
    except BaseException as error:
        begun.status, begun.error = "failed", described(error, ready.job)
        begun.provenance.duration_s = time.perf_counter() - begin
        with contextlib.suppress(OSError):  # the first error is the one to report
            write_record(begun, path.parent)
        raise
    return record


def _reducer(ready: Prepared, record: RunRecord, results: Path, workers: int) -> Reducer:
    """The method with its knob as given, or as the budget found it."""
    if ready.job.budget is None:
        return ready.reducer
    if record.provenance.calibration is None:
        record.provenance.calibration = calibrate(ready, workers)
        write_record(record, results)
    return ready.with_knob(record.knob)


def _rows(
    ready: Prepared, reducer: Reducer, path: Path, journal: Journal, workers: int
) -> list[Row]:
    """Rows of all samples: those of an interrupted run first, then the rest, batch by batch."""
    job = ready.job
    rows = journal.resume(ready.samples.ids, ready.bench.ends(ready.samples, job.batch_size))
    if rows:
        say(f"Resuming after {len(rows)} of {len(ready.samples)} samples.")
    ready.bench.begin(path.with_suffix(""), len(rows))
    inputs = ready.bench.batches(
        ready.loaded, ready.samples, batch_size=job.batch_size, workers=workers, start=len(rows)
    )
    batches = ready.bench.evaluate(ready.loaded, reducer, inputs, seed=job.seed)
    with (
        contextlib.closing(batches),  # takes the method out of the model where writing fails
        bar(f"{job.model} {job.method}", len(ready.samples), len(rows)) as advance,
    ):
        first = FirstSamples()
        _see(first, rows, journal)
        for batch in batches:
            _see(first, batch, journal)
            journal.append(batch)
            rows += batch
            advance(len(batch))
    return rows


def _see(first: FirstSamples, batch: Sequence[Row], journal: Journal) -> None:
    """Stop where the first samples all fail alike: none of their rows is kept, they run again."""
    try:
        first.see((row["id"], row["error"]) for row in batch)
    except SetUpError:
        journal.remove()
        raise


def _check_content(ready: Prepared, record: RunRecord, journal: Journal) -> None:
    """Throw the rows away where the data changed on the way."""
    try:
        ready.check_content()
    except DataError:
        journal.remove()
        record.provenance.calibration = None
        raise


def _conclude(ready: Prepared, record: RunRecord, rows: list[Row], baseline: Kept | None) -> None:
    """Put everything into the record that the rows decide."""
    job = ready.job
    summary = ready.bench.summarise(rows, ready.geometry, job.macs_convention)
    record.metrics, record.macs = summary.metrics, summary.macs
    record.tokens, record.fired = summary.tokens, summary.fired
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


def _add_speed(ready: Prepared, reducer: Reducer, record: RunRecord) -> None:
    with bar(f"speed {ready.job.method}", None) as advance:
        record.speed = ready.bench.speed(
            ready.loaded,
            reducer,
            ready.samples,
            batch_size=ready.job.batch_size,
            seed=ready.job.seed,
            rounds=SPEED_ROUNDS,
            progress=lambda: advance(1),
        )
