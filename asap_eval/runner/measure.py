"""One job measured: its samples batch by batch into rows, the rows into a record."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from functools import partial
from pathlib import Path

from asap_eval.bench.first_samples import FirstSamples, see_rows
from asap_eval.method import Reducer
from asap_eval.record import RunRecord, write_record
from asap_eval.record.journal import Journal, Rows, Stored
from asap_eval.runner.calibration import calibrate
from asap_eval.runner.conclude import conclude, speed_of
from asap_eval.runner.earlier_records import Kept, interrupted, journal_of
from asap_eval.runner.machine_errors import described
from asap_eval.runner.piece import reducer_of
from asap_eval.runner.pieces import parts_folder
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.progress import bar, say
from asap_eval.runner.provenance import Request
from asap_eval.runner.started_record import started_record


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
        shutil.rmtree(parts_folder(path), ignore_errors=True)
    record = started_record(ready, earlier, journal.path.name, request)
    begun = dataclasses.replace(record)
    write_record(record, path.parent)
    try:
        reducer = _reducer(ready, record, path.parent, workers)
        rows = _rows(ready, reducer, path, journal, workers)
        speed = partial(speed_of, ready, reducer)
        conclude(ready, path, record, rows, baseline, speed, journal.remove)
        record.provenance.duration_s = time.perf_counter() - begin
        write_record(record, path.parent)
        shutil.rmtree(parts_folder(path), ignore_errors=True)
    except BaseException as error:
        begun.status, begun.error = "failed", described(error, ready.job)
        begun.provenance.duration_s = time.perf_counter() - begin
        with contextlib.suppress(OSError):  # the first error is the one to report
            write_record(begun, path.parent)
        raise
    return record


def _reducer(ready: Prepared, record: RunRecord, results: Path, workers: int) -> Reducer:
    """The method with its knob as given, or as the budget found it."""
    if ready.job.budget is not None and record.provenance.calibration is None:
        record.provenance.calibration = calibrate(ready, workers)
        write_record(record, results)
    return reducer_of(ready, record)


def _rows(ready: Prepared, reducer: Reducer, path: Path, journal: Journal, workers: int) -> Rows:
    """Rows of all samples: those of an interrupted run first, then the rest, batch by batch."""
    job = ready.job
    rows = journal.resume(ready.samples.ids, ready.bench.ends(ready.samples, job.batch_size))
    done = len(rows)
    if done:
        say(f"Resuming after {done} of {len(ready.samples)} samples.")
    ready.bench.begin(path.with_suffix(""), done)
    inputs = ready.bench.batches(
        ready.loaded, ready.samples, batch_size=job.batch_size, workers=workers, start=done
    )
    batches = ready.bench.evaluate(ready.loaded, reducer, inputs, seed=job.seed)
    with (
        contextlib.closing(batches),  # takes the method out of the model where writing fails
        bar(f"{job.model} {job.method}", len(ready.samples), done) as advance,
    ):
        first = FirstSamples()
        see_rows(first, rows, journal)
        del rows  # they are in the file
        for batch in batches:
            see_rows(first, batch, journal)
            journal.append(batch)
            done += len(batch)
            advance(len(batch))
    return Stored(journal, done)
