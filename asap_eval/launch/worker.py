"""One worker: it goes down the queue, takes what is free, and leaves when nothing is missing.

Pieces are claimed by locks that the system frees when their holder dies; whoever claims a piece
goes on after the last batch that was written. Whoever finds all pieces of a job there, and its
baseline done, makes its record.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path

from asap_eval.bench.first_samples import FirstSamples, see_rows
from asap_eval.errors import AsapEvalError, RecordError
from asap_eval.files.placed import put
from asap_eval.launch.computer import Computer, LostError
from asap_eval.launch.launch import needs_locks
from asap_eval.launch.merge import merge
from asap_eval.launch.parts import Failure, Parts, Worker, read_worker, write_jobs
from asap_eval.launch.queue import Queue, Queued
from asap_eval.record import RunRecord, read_record, write_record
from asap_eval.record.journal import Journal
from asap_eval.runner.earlier_records import Kept, finished
from asap_eval.runner.lock import LOCKS, is_held, lock_of, locked, locked_if_free, locks_hold
from asap_eval.runner.machine_errors import described, of_files
from asap_eval.runner.piece import check_data
from asap_eval.runner.pieces import Piece
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.progress import say
from asap_eval.timing.memory import out_of_memory

SHORTEST, LONGEST = 1.0, 30.0
"""Seconds that a worker sleeps while nothing is free: doubled from the one to the other."""
EVERY = 1.0
"""Seconds between two words of a worker, at least."""
FRESH = 120.0
"""Without locks: seconds for which a part that somebody else writes counts as taken."""


class Step(Enum):
    """What became of a job when a worker looked at it."""

    GONE = auto()  # done, failed or not there: nothing is left to do
    MOVED = auto()
    WAITING = auto()


def work(queue: Queue, computer: Computer | None = None, *, log: str = "", name: str = "") -> None:
    """Work until every job of a queue is done or failed.

    Args:
        computer: what computes, None = this process. log: file of what this worker says. name:
            tells workers of one process apart; "" = its number.

    Raises:
        AsapEvalError: a job cannot be opened here: other workers are needed, or another machine.
            Or nothing can be written to the results folder.
    """
    try:
        running = _Working(queue, computer or Computer(queue), log, name or str(os.getpid()))
        with running.alive():
            running.run()
    except OSError as error:
        raise AsapEvalError(of_files(error)) from error


class _Working:
    def __init__(self, queue: Queue, computer: Computer, log: str, name: str) -> None:
        self.queue, self.computer, self.log = queue, computer, log
        self.host = socket.gethostname()
        self.name = f"{self.host}-{name}"
        self.note = ""
        self.locks = (
            queue.launch.locks != "off" and locks_hold(queue.results / LOCKS) and self._locks_work()
        )
        self.states: dict[str, Worker] = {}
        self.spoken = 0.0
        self.failed_here: set[tuple[str, int]] = set()

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Hold the lock that says that this worker lives."""
        place = self.queue.results / LOCKS / "workers" / f"{self.name}.lock"
        jobs = place.with_suffix(".json")
        while True:
            with locked_if_free(place) as mine:
                if mine:
                    write_jobs(jobs, [job.stem for job in self.queue.jobs])
                    try:
                        yield
                    finally:
                        jobs.unlink(missing_ok=True)
                        place.unlink(missing_ok=True)
                    return
            time.sleep(SHORTEST / 100)  # somebody looks whether it is free

    def _locks_work(self) -> bool:
        """Whether the lock that the head holds is seen here."""
        beacon = self.queue.beacon
        try:
            fresh = beacon is not None and time.time() - beacon.stat().st_mtime < SHORTEST * 10
        except OSError:
            return True
        if beacon is None or not fresh or is_held(beacon):
            return True
        self.note = (
            f"note: {self.queue.results} has no locks that {self.host} sees; as with "
            "launch.locks=off, two workers may do the same piece."
        )
        say(self.note)
        return False

    # Going down the queue.

    def run(self) -> None:
        left, pause = list(self.queue.jobs), SHORTEST
        while left:
            steps = []
            for job in list(left):
                steps.append(self._step(job))
                if steps[-1] is Step.GONE:
                    left.remove(job)
                if steps[-1] is Step.MOVED:
                    break  # what stands before it may have come free
            if Step.MOVED in steps or not left:
                pause = SHORTEST
                continue
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)

    def _step(self, job: Queued) -> Step:
        parts = Parts(self.queue.results, job.stem)
        record = _running(parts)
        if record is None:
            return Step.GONE
        moved = False
        if parts.missing():
            record = self._calibrated(parts, record)
            if record is None:
                return Step.WAITING
            while self._one_piece(parts, record):
                moved = True
                if parts.failed.exists():
                    return Step.GONE
        if parts.cut() and not parts.missing():
            return self._concluded(job, parts)
        if moved:
            return Step.MOVED
        return Step.WAITING if _running(parts) else Step.GONE

    # The budget.

    def _calibrated(self, parts: Parts, record: RunRecord) -> RunRecord | None:
        """The record with its calibration; None while another worker makes it, or it failed."""
        if record.job.budget is None or record.provenance.calibration is not None:
            return record
        with self._job(parts) as mine:
            current = _running(parts) if mine else None
            if current is None or current.provenance.calibration is not None:
                return current
            self._ready(parts, current)
            try:
                current.provenance.calibration = self.computer.calibration(current)
            except LostError:
                raise
            except Exception as error:
                self._give_up(parts, self._failure(error, current))
                self.computer.recover()
                return None
            write_record(current, self.queue.results)
            return current

    # A piece.

    def _one_piece(self, parts: Parts, record: RunRecord) -> bool:
        """Claim a piece and compute it; False where none is free."""
        with self._claimed(parts) as piece:
            if piece is None:
                return False
            self._ready(parts, record, piece)
            try:
                self._compute(parts, record, piece)
            except LostError:
                raise
            except Exception as error:
                self._tried(parts, record, piece, error)
            return True

    @contextlib.contextmanager
    def _claimed(self, parts: Parts) -> Iterator[Piece | None]:
        """The first piece that is missing and free, held; those that failed here come last."""
        missing = sorted(parts.missing(), key=lambda p: (parts.stem, p.start) in self.failed_here)
        for piece in missing:
            if (parts.stem, piece.start) in self.failed_here:
                time.sleep(SHORTEST)  # somebody else may have more room for it
            with self._hold(parts, piece) as mine:
                if not mine or parts.whole(piece).exists():
                    continue
                if _ended(parts):  # the lock made its folder again
                    break
                yield piece
                return
        yield None

    @contextlib.contextmanager
    def _hold(self, parts: Parts, piece: Piece) -> Iterator[bool]:
        if self.locks:
            with locked_if_free(parts.lock(piece)) as mine:
                yield mine
            return
        others = set(parts.folder.glob(f"{piece.start:09d}.*.part")) - {self._part(parts, piece)}
        yield not any(_age(path) < FRESH for path in others)

    def _part(self, parts: Parts, piece: Piece) -> Path:
        return parts.part(piece, "" if self.locks else self.name)

    def _compute(self, parts: Parts, record: RunRecord, piece: Piece) -> None:
        ready = self.computer.ready(record)
        ends = ready.bench.ends(ready.samples, record.job.batch_size)
        own = [end - piece.start for end in ends if piece.start < end <= piece.stop]
        ids = ready.samples.ids[piece.start : piece.stop]
        journal = Journal(self._part(parts, piece))
        rows = journal.resume(ids, own)
        state = self._state(parts, record)
        if rows:
            say(f"{parts.stem}: piece {piece.start} goes on after {len(rows)} of {len(ids)}.")
        first = FirstSamples() if piece.start == 0 else None
        if first is not None:
            see_rows(first, rows, journal)
        at = piece.start + len(rows)
        ready.bench.begin(parts.record.with_suffix(""), len(rows), parts.stem_of(piece))
        if at < piece.stop:
            batches = self.computer.rows(record, Piece(at, piece.stop))
            with contextlib.closing(batches):
                for batch in batches:
                    if first is not None:
                        see_rows(first, batch, journal)
                    journal.append(batch)
                    at += len(batch)
                    state.piece, state.at = piece.start, at
                    state.samples += len(batch)
                    self._speak(parts, state)
        put(journal.path, parts.whole(piece))
        state.pieces.append(piece.start)
        state.piece = state.at = None
        self._speak(parts, state, now=True)

    def _tried(self, parts: Parts, record: RunRecord, piece: Piece, error: Exception) -> None:
        """Note a try that failed: the job ends where others would fail, too, or after too many."""
        failure = self._failure(error, record)
        say(f"{parts.stem}: piece {piece.start}: {failure.message}")
        if isinstance(error, AsapEvalError):
            self._give_up_at_job(parts, failure)
            return
        self.failed_here.add((parts.stem, piece.start))
        try:
            parts.add_failure(piece, failure)
            if len(parts.failures(piece)) > self.queue.launch.retries:
                self._give_up_at_job(parts, failure)
        except OSError:
            raise AsapEvalError(failure.message) from error
        state = self._state(parts, record)
        state.piece = state.at = None
        self._speak(parts, state, now=True)
        if not out_of_memory(error) and "CUDA" in str(error):
            raise error  # the device is lost to this process
        self.computer.recover()

    # The end of a job.

    def _concluded(self, job: Queued, parts: Parts) -> Step:
        if job.times and not self.queue.times:
            return Step.GONE
        with self._job(parts) as mine:
            record = _running(parts) if mine else None
            if record is None or parts.missing():
                return Step.WAITING if not mine else Step.MOVED
            try:
                baseline = self._baseline(job)
                if baseline is None and job.baseline is not None:
                    return Step.WAITING
                ready = self._ready(parts, record)
                state = self._state(parts, record)
                self._speak(parts, state, now=True)
                merge(ready, record, parts, baseline, self.computer)
            except RecordError as error:
                if _ended(parts):
                    return Step.GONE
                if parts.missing():
                    say(f"warning: {error} It is computed again.")
                    return Step.MOVED
                self._give_up(parts, self._failure(error, record))
            except LostError:
                raise
            except Exception as error:
                self._give_up(parts, self._failure(error, record))
                self.computer.recover()
            return Step.GONE

    def _baseline(self, job: Queued) -> Kept | None:
        """The record to compare with; None while it is not done.

        Raises:
            AsapEvalError: it failed.
        """
        if job.baseline is None:
            return None
        parts = Parts(self.queue.results, job.baseline)
        if (record := finished(parts.record)) is not None:
            return parts.record, record
        if (failure := parts.failure()) is not None:
            raise AsapEvalError(f"The unpruned model, to compare with, failed: {failure.message}")
        return None

    def _ready(self, parts: Parts, record: RunRecord, piece: Piece | None = None) -> Prepared:
        """The job opened, and the files of a piece looked at; what cannot be opened here is told to
        the head, and ends this worker."""
        try:
            ready = self.computer.ready(record)
            if ready.bench.writes and not self.locks:
                raise needs_locks(record.job.bench, f"No locks that {self.host} sees")
            if piece is not None:
                check_data(ready, piece)
            return ready
        except LostError:
            raise
        except Exception as error:
            state = self._state(parts, record, opened=False)
            state.error = self._failure(error, record, started=False)
            self._speak(parts, state, now=True)
            raise

    # Words and errors.

    @contextlib.contextmanager
    def _job(self, parts: Parts) -> Iterator[bool]:
        """The job's lock, where it is free or there are none."""
        if not self.locks:
            yield True
            return
        with locked_if_free(lock_of(parts.record)) as mine:
            yield mine

    def _state(self, parts: Parts, record: RunRecord, *, opened: bool = True) -> Worker:
        if parts.stem not in self.states:
            device = self.computer.device(record) if opened else record.job.device
            new = Worker(
                name=self.name,
                host=self.computer.host(),
                pid=os.getpid(),
                log=self.log,
                device=device,
                threads=self.computer.threads(),
                note=self.note,
                began=time.time(),
            )
            earlier = read_worker(parts.worker(self.name))
            if earlier is not None and earlier.pid == new.pid:  # an actor that was started again
                new.began, new.pieces, new.samples = earlier.began, earlier.pieces, earlier.samples
            self.states[parts.stem] = new
        return self.states[parts.stem]

    def _speak(self, parts: Parts, state: Worker, *, now: bool = False) -> None:
        state.latest = time.time()
        if now or state.latest - self.spoken >= EVERY:
            self.spoken = state.latest
            parts.write_worker(state)

    def _failure(self, error: Exception, record: RunRecord, *, started: bool = True) -> Failure:
        said = described(error, record.job)
        return Failure(type(error).__name__, said, self.computer.host(), self.log, started)

    def _give_up_at_job(self, parts: Parts, failure: Failure) -> None:
        """`_give_up`, where the job's lock is not held yet."""
        with locked(parts.record) if self.locks else contextlib.nullcontext():
            self._give_up(parts, failure)

    def _give_up(self, parts: Parts, failure: Failure) -> None:
        """End a job with an error; its pieces stay. The job's lock is held."""
        if (current := _running(parts)) is None:
            return
        current.status, current.error = "failed", failure.message
        parts.write_failure(failure)
        write_record(current, self.queue.results)


def _running(parts: Parts) -> RunRecord | None:
    """The record of a job that is neither done nor failed."""
    try:
        record = read_record(parts.record)
    except RecordError:
        return None
    return record if record.status == "running" else None


def _ended(parts: Parts) -> bool:
    """Whether a job ended meanwhile; what was put into its folder since goes."""
    if _running(parts) is not None:
        return False
    if finished(parts.record) is not None:
        parts.remove()
    return True


def _age(path: Path) -> float:
    """Seconds since a file was written; many where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
