"""The command that spreads its jobs: it checks and begins them, starts workers and waits.

A job is done when its record says so, whoever wrote it: nothing that an engine says, or fails to
say, decides that. The command may be killed at any moment; given again it goes on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asap_eval import errors
from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.launch.begin import begin
from asap_eval.launch.devices import SIZE, first_of
from asap_eval.launch.launch import Launch, needs_locks
from asap_eval.launch.launcher import Ended, Launcher, launcher_of
from asap_eval.launch.parts import Failure, Parts, Worker, living
from asap_eval.launch.queue import Queue, Queued
from asap_eval.launch.worker import work
from asap_eval.record import Job, read_record, record_stem
from asap_eval.runner import Outcome
from asap_eval.runner.earlier_records import finished
from asap_eval.runner.latest_model import forget
from asap_eval.runner.lock import LOCKS, locked, locked_if_free, locks_hold
from asap_eval.runner.machine_errors import explaining
from asap_eval.runner.opening import check_places, say_samples
from asap_eval.runner.piece import Opening
from asap_eval.runner.pieces import Piece
from asap_eval.runner.prepare import Prepared, prepare
from asap_eval.runner.progress import bar, say, say_once
from asap_eval.runner.provenance import Request

EVERY = 0.5
"""Seconds between two looks at the results folder."""
MOMENT = 5.0
"""Seconds that the removal of pieces may take at the end."""


@dataclass(frozen=True)
class Asked:
    """One row that a command asks for.

    Attributes:
        job: what to run. results: folder of the records. force: run again what is done. opening:
            how it is opened. config, overrides: where it came from, for the record.
    """

    job: Job
    results: Path
    force: bool
    opening: Opening
    config: Mapping[str, Any]
    overrides: Sequence[str] | None


class NotWaitedError(AsapEvalError):
    """Workers run, and the command was not to wait for them: no error, and no record yet."""


def spread(rows: Sequence[Asked], launch: Launch, made: set[Path]) -> list[Outcome | Exception]:
    """Run rows by workers; of each its outcome, or what is wrong with it.

    Args:
        rows: one results folder and one `Opening` for all of them. made: records that the command
            has made; added to.

    Raises:
        AsapEvalError: nothing could be started, or no worker is left.
    """
    joins = launch.kind == "join"
    engine = None if joins else launcher_of(launch)
    for device in dict.fromkeys(row.job.device for row in rows):
        if engine is not None:
            engine.check(device)
    list_ = _List(
        launch,
        made,
        shares=engine is None or engine.shares,
        # Workers compute, and a login node has no GPU.
        device=None if engine is None else "cpu",
    )
    found = [list_.add(row) for row in rows]
    if list_.jobs:
        queue = Queue(
            results=rows[0].results.resolve(),
            jobs=tuple(list_.jobs.values()),
            opening=rows[0].opening,
            launch=launch,
            folder=Path.cwd(),
        )
        if engine is None:
            work(queue)
        else:
            forget()
            _Head(queue, engine, rows[0].job.device).run()
    made.update(list_.made)
    return [_outcome(one) if isinstance(one, Path) else one for one in found]


def alone(
    ready: Prepared, path: Path, request: Request, baseline: Path | None, opening: Opening
) -> None:
    """Go on, in this process, with a job that several workers began."""
    launch = Launch(kind="join")
    with locked(path):
        begin(ready, path, request, anew=False, size=None)
    jobs = (Queued(path.stem, None if baseline is None else baseline.stem),)
    work(Queue(path.parent.resolve(), jobs, opening, launch, Path.cwd()))
    if isinstance(found := _outcome(path), Exception):
        raise found


class _List:
    """The jobs of a command, begun one after the other; baselines before what needs them."""

    def __init__(
        self, launch: Launch, made: set[Path], *, shares: bool, device: str | None
    ) -> None:
        self.launch, self.earlier = launch, made
        self.shares, self.device = shares, device
        self.jobs: dict[str, Queued] = {}
        self.made: set[Path] = set()

    def add(self, row: Asked) -> Outcome | Exception | Path:
        """Begin a row: what it came to, or the path where its record will be."""
        try:
            with explaining(row.job):
                return self._add(row)
        except Exception as error:
            return error

    def _add(self, row: Asked) -> Outcome | Path:
        check_places(row.opening.cache, row.results)
        ready = prepare(row.job, imagenet=row.opening.imagenet, device=self.device)
        say_samples(ready)
        self._check(row, ready)
        request = Request(row.config, row.overrides)
        path = _path(row.results, ready)
        if not self._anew(row, path) and (record := finished(path)) is not None:
            _remove_left(path)
            return Outcome(record, path, reused=path.resolve() not in self.made)
        baseline = None
        if ready.bench.accuracy and ready.job.method != "none":
            unpruned = ready.for_baseline()
            baseline = self._begin(row, unpruned, request.of_baseline(), None)
        return self._begin(row, ready, request, baseline)

    def _begin(self, row: Asked, ready: Prepared, request: Request, baseline: Path | None) -> Path:
        path = _path(row.results, ready)
        if path.stem in self.jobs:
            return path
        with locked(path):
            anew = self._anew(row, path)
            if not anew and finished(path) is not None:
                Parts(path.parent, path.stem).remove()
                return path
            begin(ready, path, request, anew=anew, size=self.launch.piece, device=self.device)
        self.made.add(path.resolve())
        stem = None if baseline is None else baseline.stem
        self.jobs[path.stem] = Queued(path.stem, stem, ready.job.speed)
        return path

    def _check(self, row: Asked, ready: Prepared) -> None:
        """Refuse what several workers cannot do."""
        if row.force and self.launch.kind == "join":
            raise BadValueError(
                "force=true with launch=join: every process would begin anew, and none would end. "
                "Remove the record, or use another launch=."
            )
        if ready.bench.writes and not self.shares:
            raise BadValueError(
                f"launch={self.launch.kind} with bench={row.job.bench}: it writes files beside the "
                "record, and workers that see no results folder cannot. Use launch=local or slurm."
            )
        if ready.bench.writes and self.launch.locks == "off":
            raise needs_locks(row.job.bench, "launch.locks=off")
        if ready.bench.writes and not locks_hold(row.results / LOCKS):
            raise needs_locks(row.job.bench, f"No locks in {row.results}")
        if row.job.speed and row.job.device == "cpu" and self._workers() > 1:
            raise BadValueError(
                "speed=true on a CPU with several workers: they would take each other's cores. Run "
                "it with launch=none; the accuracy that is there is not measured again."
            )

    def _workers(self) -> int:
        """How many were asked for, or join each other."""
        joined = first_of(SIZE) if self.launch.kind == "join" else None
        return joined or self.launch.workers or 1

    def _anew(self, row: Asked, path: Path) -> bool:
        return row.force and path.resolve() not in self.earlier | self.made


def _remove_left(path: Path) -> None:
    """Remove pieces of a job that was stopped after its record was written."""
    parts = Parts(path.parent, path.stem)
    if not parts.folder.exists():
        return
    with locked(path):
        if finished(path) is not None:  # nobody began it anew meanwhile
            parts.remove()


def _path(results: Path, ready: Prepared) -> Path:
    return results / f"{record_stem(ready.job, ready.key)}.json"


def _outcome(path: Path) -> Outcome | Exception:
    """What became of a job that workers ran."""
    record = read_record(path)
    if record.status == "done":
        return Outcome(record, path, reused=False)
    failure = Parts(path.parent, path.stem).failure()
    if failure is None:
        return AsapEvalError(f"{path} is {record.status}: {record.error or 'nobody works on it'}")
    return _error_of(failure)


def _error_of(failure: Failure) -> AsapEvalError:
    """A worker's error as this process would have raised it, with host and log."""
    kind = getattr(errors, failure.kind, AsapEvalError)
    known = isinstance(kind, type) and issubclass(kind, AsapEvalError)
    where = f" (worker on {failure.host}{', log ' if failure.log else ''}{failure.log})"
    made: AsapEvalError = (kind if known else AsapEvalError)(failure.message + where)
    return made


@dataclass
class _Seen:
    """What the head knows of a job: its pieces, its record's status, its workers, samples done."""

    parts: Parts
    cut: Sequence[Piece]
    status: str = "running"
    record_time: int = 0
    workers: list[Worker] = field(default_factory=list)
    done: int = 0

    @property
    def total(self) -> int:
        """Samples; 0 where workers of an earlier command ended the job since it was listed."""
        return self.cut[-1].stop if self.cut else 0

    def look(self) -> None:
        """See how far it is; one that is over is looked at no more."""
        with contextlib.suppress(OSError):
            changed = self.parts.record.stat().st_mtime_ns
            if changed != self.record_time:
                self.status, self.record_time = read_record(self.parts.record).status, changed
        if self.status == "done":
            self.done = self.total
        if self.status != "running":
            return
        self.workers = self.parts.workers()
        for worker in self.workers:
            if worker.note:
                say_once(worker.note)
        missing = {piece.start for piece in self.parts.missing(self.cut)}
        whole = sum(p.stop - p.start for p in self.cut if p.start not in missing)
        self.done = whole + sum(self._at(worker, missing) for worker in self.workers)

    @staticmethod
    def _at(worker: Worker, missing: set[int]) -> int:
        """Samples of the piece that a worker is at."""
        if worker.piece is None or worker.at is None or worker.piece not in missing:
            return 0
        return worker.at - worker.piece


class _Head:
    """Waits for a queue."""

    def __init__(self, queue: Queue, engine: Launcher, device: str) -> None:
        self.queue, self.engine, self.device = queue, engine, device
        parts = [Parts(queue.results, job.stem) for job in queue.jobs]
        self.jobs = [_Seen(one, one.cut()) for one in parts]
        self.names: list[str] = []
        self.left = 0
        self.last: Ended | None = None
        self.began = self.heard = time.time()

    def run(self) -> None:
        """Start workers, wait for every job to be done or failed, and say what went wrong."""
        beacon = self.queue.results / LOCKS / "workers" / f"head-{time.time_ns()}.beacon"
        with locked_if_free(beacon):
            try:
                self._started(beacon)
                if not self.queue.launch.wait:
                    self._leave()
                self._wait(beacon)
                self._removed()
                self.engine.done()
            except NotWaitedError:
                raise
            except BaseException:
                self.engine.stop()
                raise
            finally:
                beacon.unlink(missing_ok=True)

    def _started(self, beacon: Path) -> None:
        wanted = self.engine.count(self.device)
        pieces = sum(len(job.parts.missing(job.cut)) or 1 for job in self.jobs)
        there = len(living(self.queue.results, [job.parts.stem for job in self.jobs]))
        count = min(max(wanted - there, 0), pieces)
        if there:
            say(f"{there} workers of an earlier command are at it; {count} are started.")
        if count:
            queue = replace(self.queue, workers=wanted, beacon=beacon)
            self.names = list(self.engine.start(queue, count))
        self.left = len(self.names)

    def _leave(self) -> None:
        results = self.queue.results
        raise NotWaitedError(
            f"{len(self.names)} workers run: {', '.join(self.names)}. asap-eval jobs "
            f"results={results} shows how far they are; the same command shows the table once all "
            "is done."
        )

    def _wait(self, beacon: Path) -> None:
        total = sum(job.total for job in self.jobs)
        shown = self._done()
        with bar(f"{len(self.jobs)} jobs, {self.left} workers", total, shown) as advance:
            while True:
                beacon.touch()
                self._hear()
                done = self._done()
                advance(max(0, done - shown))
                shown = max(shown, done)
                if all(job.status != "running" for job in self.jobs):
                    return
                self._check_workers()
                time.sleep(EVERY)

    def _removed(self) -> None:
        """A record is done before its pieces are gone: whoever does that has a moment for it."""
        end = time.monotonic() + MOMENT
        while time.monotonic() < end and any(
            job.parts.folder.exists() for job in self.jobs if job.status == "done"
        ):
            time.sleep(MOMENT / 100)

    def _hear(self) -> None:
        for one in self.engine.ended():
            self.left -= 1
            if one.error is not None:
                self.last = one
                log = f" (log {one.log})" if one.log else ""
                say(f"worker {one.worker} ended: {one.error}{log}", style="yellow")

    def _done(self) -> int:
        """Samples that are done; jobs that are over are looked at no more."""
        for job in self.jobs:
            if job.status == "running":
                job.look()
        return sum(job.done for job in self.jobs)

    def _check_workers(self) -> None:
        """Give up where a machine is at fault, or nobody works any more.

        Raises:
            AsapEvalError: in one line, with host and log.
        """
        for job in self.jobs:
            for worker in job.workers:
                error = worker.error
                if error is not None and not error.started and worker.latest >= self.began:
                    raise _error_of(error)
        stems = [job.parts.stem for job in self.jobs]
        if self.left <= 0 and not living(self.queue.results, stems):
            if all(self._over(job) for job in self.jobs):
                return
            said = "" if self.last is None else f" The last said: {self.last.error}"
            log = "" if self.last is None or self.last.log is None else f" (log {self.last.log})."
            raise AsapEvalError(
                f"No worker is left, and {self._open()} of {len(self.jobs)} jobs are not done."
                f"{said}{log} The same command goes on where they stopped."
            )
        latest = max((w.latest for job in self.jobs for w in job.workers), default=0.0)
        self.heard = time.time() if self.engine.queued() else max(latest, self.heard)
        if time.time() - self.heard > self.queue.launch.silence and not living(
            self.queue.results, stems
        ):
            raise AsapEvalError(
                f"No word of any worker for {self.queue.launch.silence:g} s. Look at "
                f"{', '.join(self.names)}; the same command goes on."
            )

    def _over(self, job: _Seen) -> bool:
        """Whether a job ended since it was looked at."""
        job.look()
        return job.status != "running"

    def _open(self) -> int:
        return sum(job.status == "running" for job in self.jobs)
