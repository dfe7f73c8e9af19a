"""How far the jobs of a results folder are: read from the disk alone, by whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asap_eval.errors import RecordError
from asap_eval.launch.parts import Failure, Parts, Worker
from asap_eval.record import RunRecord, read_record
from asap_eval.runner.earlier_records import journal_of
from asap_eval.runner.lock import LOCKS, is_held, lock_of

State = Literal["running", "failed", "stopped"]
"""Of a job without a finished record: somebody is at it; it ended with an error; nobody is."""

BLOCK = 1 << 20
"""Bytes that are searched for ends of lines at once."""


@dataclass(frozen=True)
class Standing:
    """One job that is not done.

    Attributes:
        stem: of its record. state: see `State`. total: samples. done: those whose rows are written.
        alive: workers at it that live. gone: those that do not. error: what ended the job; "" =
            nothing did. log: of the worker that it happened to, "" = none is known.
    """

    stem: str
    state: State
    total: int
    done: int
    alive: tuple[Worker, ...] = ()
    gone: tuple[Worker, ...] = ()
    error: str = ""
    log: str = ""

    @property
    def rate(self) -> float | None:
        """Samples a second of the workers that live; None before their first batch."""
        rates = [w.samples / (w.latest - w.began) for w in self.alive if w.latest > w.began]
        return sum(rates) or None

    @property
    def left(self) -> float | None:
        """Seconds until the last sample at that rate."""
        return None if self.rate is None else (self.total - self.done) / self.rate

    def failures(self) -> Iterator[tuple[str, Failure]]:
        """Workers that an error stopped, by name, and what ended the job."""
        said = set()
        for worker in (*self.alive, *self.gone):
            if worker.error is not None:
                said.add(worker.error.message)
                yield worker.name, worker.error
        if self.error and self.error not in said:
            yield "", Failure("", self.error, "", self.log)


def standings(results: Path) -> list[Standing]:
    """The jobs of a folder that are begun and not done, by name."""
    found = []
    for path in sorted(results.glob("*.json")):
        try:
            record = read_record(path)
        except RecordError:
            continue  # no record, or of another version: `asap-eval report` names it
        if record.status != "done":
            found.append(standing(path, record))
    return found


def standing(path: Path, record: RunRecord) -> Standing:
    """How far one job is.

    Args:
        path: of its record, which is not done.
    """
    parts = Parts(path.parent, path.stem)
    workers, failure = parts.workers(), parts.failure()
    alive = [worker for worker in workers if lives(path.parent, worker)]
    busy = bool(alive) or is_held(lock_of(path))
    stopped: State = "failed" if record.status == "failed" else "stopped"
    return Standing(
        stem=path.stem,
        state="running" if busy and record.status == "running" else stopped,
        total=record.provenance.data["n"],
        done=_done(parts),
        alive=tuple(alive),
        gone=tuple(worker for worker in workers if worker not in alive),
        error=record.error or "",
        log=failure.log if failure else "",
    )


def lives(results: Path, worker: Worker) -> bool:
    """Whether a worker still holds the lock that it takes when it begins."""
    return is_held(results / LOCKS / "workers" / f"{worker.name}.lock")


def _done(parts: Parts) -> int:
    """Samples whose rows are written, by workers or by one process."""
    cut, missing = parts.cut(), parts.missing()
    if not cut:
        return _lines(journal_of(parts.record).path)
    whole = sum(piece.stop - piece.start for piece in cut if piece not in missing)
    # Without locks two may write the same piece: the longer one counts.
    begun = (
        max(map(_lines, parts.folder.glob(f"{piece.start:09d}*.part")), default=0)
        for piece in missing
    )
    return whole + sum(begun)


def _lines(path: Path) -> int:
    """Whole lines of a file; 0 where it is not there (any more)."""
    try:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK), b""))
    except FileNotFoundError:
        return 0
