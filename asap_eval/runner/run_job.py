"""From a job to its record: reuse what is finished, run the baseline first, then measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asap_eval.record import Job, RunRecord, read_record, record_stem
from asap_eval.runner.earlier_records import finished
from asap_eval.runner.lock import locked
from asap_eval.runner.machine_errors import explaining
from asap_eval.runner.measure import measure
from asap_eval.runner.opening import check_places, keeping_pictures, say_samples
from asap_eval.runner.pieces import parts_folder
from asap_eval.runner.prepare import Prepared, prepare
from asap_eval.runner.progress import say
from asap_eval.runner.provenance import Request

GoesOn = Callable[[Prepared, Path, Request, "Path | None"], None]
"""Brings the job of a record to its end; the last is the record of its baseline."""


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
    cache: str = "auto",
    imagenet: str | None = None,
    config: Mapping[str, Any] | None = None,
    overrides: Sequence[str] | None = None,
    goes_on: GoesOn | None = None,
) -> Outcome:
    """Run a job, or hand back the record of an earlier run; an interrupted one is resumed.

    Args:
        job: what to run. results: folder of the records. force: run again although it is done
            and so is its paired baseline. made: records that the same command has made: they are
            reused all the same; added to. workers: processes that load images.
        cache: ``auto`` keeps decoded pictures in the user's cache, ``off`` does not.
        imagenet: its folder, for jobs that name it or no data.
        config, overrides: configuration and command line it came from, for the record.
        goes_on: ends a job of which several workers left pieces; None = it runs from its start.

    Raises:
        AsapEvalError: anything that can be said in one line; the record, if one was begun, is
            then ``failed`` and the same command resumes it.
    """
    with explaining(job):
        made = set() if made is None else made
        check_places(cache, results)
        ready = prepare(job, imagenet=imagenet)
        say_samples(ready)
        ready = keeping_pictures(ready, cache)
        request = Request(dict(config or {}), overrides)
        return _Runs(results, force, made, workers, goes_on).run(ready, request)


@dataclass(frozen=True)
class _Runs:
    """Runs of one command: see `run`."""

    results: Path
    force: bool
    made: set[Path]
    workers: int
    goes_on: GoesOn | None

    def run(self, ready: Prepared, request: Request) -> Outcome:
        path = self._path(ready)
        anew = self._anew(path)
        if not anew and (record := finished(path)):
            return Outcome(record, path, reused=True)
        unpruned = None
        if ready.bench.accuracy and ready.job.method != "none":
            unpruned = self._baseline(ready.for_baseline(), request.of_baseline())
        with locked(path):
            if not anew and (record := finished(path)):
                return Outcome(record, path, reused=True)
            pieces = not anew and parts_folder(path).is_dir()
        if pieces and self.goes_on is not None:
            say("Workers left pieces of this job: they are taken up.")
            self.goes_on(ready, path, request, None if unpruned is None else unpruned.path)
            self.made.add(path.resolve())
            return Outcome(read_record(path), path, reused=False)
        with locked(path):
            if not anew and (record := finished(path)):
                return Outcome(record, path, reused=True)
            baseline = None if unpruned is None else (unpruned.path, unpruned.record)
            record = measure(ready, path, request, baseline, anew=anew, workers=self.workers)
            self.made.add(path.resolve())
            return Outcome(record, path, reused=False)

    def _baseline(self, unpruned: Prepared, request: Request) -> Outcome:
        path = self._path(unpruned)
        if self._anew(path) or finished(path) is None:
            count = len(unpruned.samples)
            say(f"First the unpruned model on the same {count} samples, to compare.")
        return self.run(unpruned, request)

    def _path(self, ready: Prepared) -> Path:
        return self.results / f"{record_stem(ready.job, ready.key)}.json"

    def _anew(self, path: Path) -> bool:
        """Whether a record is made although it is there."""
        return self.force and path.resolve() not in self.made
