"""What lies on the disk while several workers run a job, and who reads and writes it.

::

    <stem>.json                               running: key, job, calibration (head, then workers)
    <stem>.samples.jsonl                      the rows: written by the merge
    .<stem>.parts/listing.json                samples and where they lie (head)
    .<stem>.parts/digests.json                digests of the weights, by path (head)
    .<stem>.parts/cut.json                    where the pieces end, and what a journal held (head)
    .<stem>.parts/000000512.jsonl             a whole piece, named by its first sample
    .<stem>.parts/000000512.part              one that is being written, batch by batch (`Journal`)
    .<stem>.parts/000000512.lock              held by the worker that writes it (flock)
    .<stem>.parts/000000512.tries             errors that ended tries of it: a list of `Failure`
    .<stem>.parts/000000512.*                 what a benchmark keeps of it (`Bench.begin`)
    .<stem>.parts/failed.json                 `Failure` that ended the job
    .<stem>.parts/workers/<host>-<pid>.json   `Worker`, as it is at this job
    .locks/<stem>.lock                        the job's lock: calibration, merge and speed
    .locks/gpus/<host>-<gpu>.lock             held by the worker of launch=local that has the GPU
    .locks/workers/<host>-<pid>.lock          held as long as the worker lives
    .locks/workers/<host>-<pid>.json          the jobs it goes down: a list of stems

A kill leaves locks free, parts that `Journal.resume` takes up, and nothing else. A merge removes
the folder of parts once the record is ``done``. Without locks (``launch.locks=off``) every worker
writes parts of its own (``000000512.<host>-<pid>.part``): two may do one piece, whose rows are
equal.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asap_eval.record.files import write_json
from asap_eval.runner.lock import LOCKS, locked_if_free
from asap_eval.runner.pieces import Piece, parts_folder


@dataclass
class Failure:
    """An error of a worker.

    Attributes:
        kind: name of the error's class. message: in one line, as a person reads it.
        host: where. log: of the worker, "" = it has none. started: whether the worker could open
            the job; where not, its machine is at fault and the command ends.
    """

    kind: str
    message: str
    host: str
    log: str = ""
    started: bool = True


@dataclass
class Worker:
    """A worker at one job, as its file says; written at every batch, at most once a second.

    Attributes:
        name: of its files: host and process. host, pid: of the process. log: its file, "" = none.
        device: ``cpu``, or the GPU's name. threads: of torch. began, latest: seconds of the clock
            (time.time) of the first and of the latest word. pieces: first samples of those that it
            finished. samples: whose rows it wrote; where a piece was taken over, those after.
        piece, at: the piece it is at, and the next sample of it; None between two. note: what
            the head is to pass on to a person. error: what stopped it at this job.
    """

    name: str
    host: str
    pid: int
    log: str = ""
    device: str = "cpu"
    threads: int = 1
    began: float = 0.0
    latest: float = 0.0
    pieces: list[int] = field(default_factory=list)
    samples: int = 0
    piece: int | None = None
    at: int | None = None
    note: str = ""
    error: Failure | None = None


@dataclass(frozen=True)
class Parts:
    """The folder of parts of one job.

    Attributes:
        results: folder of the records. stem: of the job's record.
    """

    results: Path
    stem: str

    @property
    def folder(self) -> Path:
        return parts_folder(self.record)

    @property
    def record(self) -> Path:
        return self.results / f"{self.stem}.json"

    def whole(self, piece: Piece) -> Path:
        """The file of a finished piece."""
        return self.folder / f"{piece.start:09d}.jsonl"

    def part(self, piece: Piece, own: str = "") -> Path:
        """The file of a piece that is being written; ``own`` names its writer without locks."""
        return self.folder / f"{piece.start:09d}{'.' if own else ''}{own}.part"

    def lock(self, piece: Piece) -> Path:
        return self.folder / f"{piece.start:09d}.lock"

    def stem_of(self, piece: Piece) -> Path:
        """Where a benchmark keeps what is too large for rows of a piece; it adds an ending.

        Those of an earlier run of one process stay where that run left them, beside the record.
        """
        if piece.start == 0 and self.adopted():
            return self.results / self.stem
        return self.folder / f"{piece.start:09d}"

    def tries(self, piece: Piece) -> Path:
        return self.folder / f"{piece.start:09d}.tries"

    @property
    def listing(self) -> Path:
        """The samples, as the head found them: see `asap_eval.data.listed`."""
        return self.folder / "listing.json"

    @property
    def digests(self) -> Path:
        """Digests of the weights, as the head found them: see `asap_eval.files.digests`."""
        return self.folder / "digests.json"

    @property
    def failed(self) -> Path:
        return self.folder / "failed.json"

    def worker(self, name: str) -> Path:
        return self.folder / "workers" / f"{name}.json"

    def cut(self) -> list[Piece]:
        """The pieces of the job; [] where there is no folder (any more)."""
        stops = self._said().get("stops", [])
        return [Piece(a, b) for a, b in zip([0, *stops], stops, strict=False)]

    def adopted(self) -> bool:
        """Whether the first piece is what an earlier run of one process left."""
        return bool(self._said().get("adopted", False))

    def write_cut(self, pieces: Sequence[Piece], *, adopted: bool) -> None:
        said = {"adopted": adopted, "stops": [piece.stop for piece in pieces]}
        write_json(self.folder / "cut.json", said)

    def _said(self) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.folder / "cut.json").read_bytes())
            return found
        return {}

    def missing(self, cut: Sequence[Piece] | None = None) -> list[Piece]:
        """Pieces that are not whole yet, in order.

        Args:
            cut: what `cut` gave before, None = it is read.
        """
        cut = self.cut() if cut is None else cut
        there = {path.stem for path in self.folder.glob("*.jsonl")}
        return [piece for piece in cut if f"{piece.start:09d}" not in there]

    def remove(self) -> None:
        """Throw everything away that workers left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def workers(self) -> list[Worker]:
        """All that ever worked on the job, by name."""
        files = sorted((self.folder / "workers").glob("*.json"))
        return [worker for path in files if (worker := read_worker(path)) is not None]

    def failure(self) -> Failure | None:
        """What ended the job, if anything did."""
        return next(iter(_failures(self.failed)), None)

    def failures(self, piece: Piece) -> list[Failure]:
        """What ended tries of a piece."""
        return list(_failures(self.tries(piece)))

    def add_failure(self, piece: Piece, failure: Failure) -> None:
        """Note a try that failed; the piece's lock has to be held."""
        found = [dataclasses.asdict(one) for one in (*self.failures(piece), failure)]
        write_json(self.tries(piece), found)

    def write_failure(self, failure: Failure) -> None:
        """Note what ended the job."""
        write_json(self.failed, [dataclasses.asdict(failure)])

    def write_worker(self, worker: Worker) -> None:
        write_json(self.worker(worker.name), dataclasses.asdict(worker))


def write_jobs(path: Path, stems: Sequence[str]) -> None:
    """Say which jobs a worker goes down; beside the lock that says that it lives."""
    write_json(path, list(stems))


def living(results: Path, stems: Collection[str]) -> list[str]:
    """Names of the workers that live and go down any of these jobs; files of dead ones go."""
    found = []
    for lock in sorted((results / LOCKS / "workers").glob("*.lock")):
        said = lock.with_suffix(".json")
        with locked_if_free(lock) as dead:
            if dead:  # removed while it is held here: else it may be another's by then
                said.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
                continue
        with suppress(FileNotFoundError):
            if set(json.loads(said.read_bytes())) & set(stems):
                found.append(lock.stem)
    return found


def read_worker(path: Path) -> Worker | None:
    """A worker's file; None where it is gone."""
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if body["error"] is not None:
        body["error"] = Failure(**body["error"])
    return Worker(**body)


def _failures(path: Path) -> Iterator[Failure]:
    try:
        bodies = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    yield from (Failure(**body) for body in bodies)
