"""Job -> RunRecord: prepare, reuse or resume, install, measure, write."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asap_eval.bench.first_samples import FirstSamples
from asap_eval.errors import DataError, SetUpError
from asap_eval.method import Reducer, build
from asap_eval.record import Job, Provenance, RunRecord, record_stem, write_record
from asap_eval.record.journal import Journal, Row
from asap_eval.runner import provenance
from asap_eval.runner.calibration import calibrate, evaluated
from asap_eval.runner.failures import described, readable
from asap_eval.runner.kept import files_of, finished, interrupted, journal_of, rows_of
from asap_eval.runner.lock import locked
from asap_eval.runner.prepare import Prepared, prepare
from asap_eval.runner.progress import bar, say

SPEED_ROUNDS = 30
"""Counted rounds of a speed measurement."""


@dataclass(frozen=True)
class Outcome:
    """What a run leaves.

    Attributes:
        record: the finished record. path: its file. reused: whether it was there before.
    """

    record: RunRecord
    path: Path
    reused: bool


def run(
    job: Job,
    *,
    results: Path,
    force: bool = False,
    made: set[Path] | None = None,
    workers: int = 0,
    config: Mapping[str, Any] | None = None,
    overrides: Sequence[str] | None = None,
) -> Outcome:
    """Run a job, or hand back the record of an earlier run; an interrupted one is resumed.

    Args:
        job: what to run. results: folder of the records. force: run again although it is done
            and so is its paired baseline. made: records that the same command has made: they are
            reused all the same; added to. workers: processes that load images.
        config, overrides: configuration and command line it came from, for the record.

    Raises:
        AsapEvalError: anything that can be said in one line; the record, if one was begun, is
            then ``failed`` and the same command resumes it.
    """
    with readable(job):
        made = set() if made is None else made
        how = _How(results, workers, force, made, dict(config or {}), overrides)
        ready = prepare(job)
        for note in ready.bench.notes(ready.samples):
            say(f"note: {note}")
        return _run(ready, how)


@dataclass(frozen=True)
class _How:
    """What does not change the numbers: see `run`."""

    results: Path
    workers: int
    force: bool
    made: set[Path]
    config: dict[str, Any]
    overrides: Sequence[str] | None

    def anew(self, path: Path) -> bool:
        """Whether a record is made although it is there."""
        return self.force and path.resolve() not in self.made

    def of_baseline(self) -> _How:
        """The same without anything of the method: the record serves others, too."""
        return dataclasses.replace(
            self,
            config=provenance.config_of_baseline(self.config),
            overrides=provenance.of_baseline(self.overrides),
        )


def _run(ready: Prepared, how: _How) -> Outcome:
    path = how.results / f"{record_stem(ready.job, ready.key)}.json"
    anew = how.anew(path)
    if not anew and (record := finished(path)):
        return Outcome(record, path, reused=True)
    baseline = None
    if ready.bench.accuracy and ready.job.method != "none":
        unpruned = ready.for_baseline()
        at = how.results / f"{record_stem(unpruned.job, unpruned.key)}.json"
        if how.anew(at) or finished(at) is None:
            say(f"First the unpruned model on the same {len(ready.samples)} samples, to compare.")
        baseline = _run(unpruned, how.of_baseline())
    with locked(path):
        if not anew and (record := finished(path)):
            return Outcome(record, path, reused=True)
        record = _measure(ready, path, baseline, anew, how)
        how.made.add(path.resolve())
        return Outcome(record, path, reused=False)


def _measure(
    ready: Prepared,
    path: Path,
    baseline: Outcome | None,
    anew: bool,
    how: _How,
) -> RunRecord:
    """Run the job under its lock, keeping the record and the journal true all the time."""
    begin = time.perf_counter()
    journal = journal_of(path)
    earlier = None if anew else interrupted(path)
    if earlier is None:
        journal.remove()
    record = _started(ready, earlier, journal.path.name, how)
    begun = dataclasses.replace(record)
    write_record(record, path.parent)
    try:
        rows = _rows(ready, record, journal, how)
        _check_content(ready, record, journal)
        _conclude(ready, record, rows, baseline)
        if ready.job.speed:
            record.speed = _speed(ready, record)
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


def _rows(ready: Prepared, record: RunRecord, journal: Journal, how: _How) -> list[Row]:
    """Rows of all samples: those of an interrupted run first, then the rest, batch by batch."""
    job = ready.job
    if job.budget is not None and record.provenance.calibration is None:
        record.provenance.calibration = calibrate(ready, how.workers)
        write_record(record, how.results)
    rows = journal.resume(ready.samples.ids, ready.bench.ends(ready.samples, job.batch_size))
    if rows:
        say(f"Resuming after {len(rows)} of {len(ready.samples)} samples.")
    ready.bench.begin(how.results / record.stem, len(rows))
    inputs = ready.bench.batches(
        ready.loaded, ready.samples, batch_size=job.batch_size, workers=how.workers, start=len(rows)
    )
    batches = ready.bench.evaluate(ready.loaded, _reducer(ready, record), inputs, seed=job.seed)
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
    """Nothing is kept of samples that failed for a fault of the set-up: they are run again."""
    try:
        first.see((row["id"], row["error"]) for row in batch)
    except SetUpError:
        journal.remove()
        raise


def _check_content(ready: Prepared, record: RunRecord, journal: Journal) -> None:
    """Rows of data that changed on the way are thrown away."""
    try:
        ready.check_content()
    except DataError:
        journal.remove()
        record.provenance.calibration = None
        raise


def _conclude(
    ready: Prepared, record: RunRecord, rows: list[Row], baseline: Outcome | None
) -> None:
    """Everything that the rows decide."""
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
        before = rows_of(baseline.path, baseline.record)
        ready.bench.compare(record, baseline.record, rows, before)


def _speed(ready: Prepared, record: RunRecord) -> dict[str, Any]:
    with bar(f"speed {ready.job.method}", None) as advance:
        return ready.bench.speed(
            ready.loaded,
            _reducer(ready, record),
            ready.samples,
            batch_size=ready.job.batch_size,
            seed=ready.job.seed,
            rounds=SPEED_ROUNDS,
            progress=lambda: advance(1),
        )


def _reducer(ready: Prepared, record: RunRecord) -> Reducer:
    """The method with its knob as given, or as the budget found it."""
    return build(ready.job.method, **record.options)


def _started(ready: Prepared, earlier: RunRecord | None, samples: str, how: _How) -> RunRecord:
    """The ``running`` record; of an interrupted run its start and its calibration stay."""
    job, loaded = ready.job, ready.loaded
    known = provenance.git_state()
    return RunRecord(
        key=ready.key,
        status="running",
        job=job,
        samples=samples,
        provenance=Provenance(
            command=provenance.command_line(how.overrides),
            config=how.config,
            commit=known[0],
            dirty=known[1],
            sources=ready.sources,
            packages=provenance.packages(),
            machine=provenance.machine(job.device),
            dtype=job.dtype,
            kernels=provenance.kernels(job.device),
            seeds={"run": job.seed},
            weights=dataclasses.asdict(loaded.weights),
            method=build(job.method, **job.options).origin(),
            data={
                "source": job.data,
                "ids_digest": ready.samples.digest,
                "content": ready.content,
                "n": len(ready.samples),
                "commits": dict(ready.samples.commits),
                "notes": list(ready.bench.notes(ready.samples)),
            },
            started=earlier.provenance.started if earlier else provenance.now(),
            calibration=earlier.provenance.calibration if earlier else None,
        ),
    )
