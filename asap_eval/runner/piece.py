"""One piece of a job, computed from the job's record alone: in any process, without any folder.

A worker, or an actor on a machine that sees no results folder, opens the job that a record names
(`opened`), is refused where its code, weights or data are others, and gives rows batch by batch
(`rows_of`). Nothing here writes; `asap_eval.launch` does.
"""

from __future__ import annotations

import socket
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from asap_eval import plugins
from asap_eval.data.listed import trusting
from asap_eval.errors import AsapEvalError, DataError
from asap_eval.method import Reducer
from asap_eval.record import Calibration, RunRecord
from asap_eval.record.journal import Row
from asap_eval.runner.calibration import calibrate
from asap_eval.runner.opening import keeping_pictures
from asap_eval.runner.pieces import Piece
from asap_eval.runner.prepare import Prepared, prepare
from asap_eval.runner.provenance import packages


class OtherJobError(AsapEvalError):
    """A machine whose code, weights, data or packages would give other numbers."""


@dataclass(frozen=True)
class Opening:
    """How jobs are opened on a machine; none of it can change a number.

    Attributes:
        loaders: processes that load samples (``workers=``). cache: ``auto`` or ``off``.
        imagenet: its folder on this machine. plugins: as ``plugins=`` names them.
    """

    loaders: int = 0
    cache: str = "auto"
    imagenet: str | None = None
    plugins: tuple[str, ...] = ()


def opened(
    record: RunRecord,
    how: Opening,
    listing: Path | None = None,
    device: str | None = None,
) -> Prepared:
    """The job of a running record, opened here.

    Args:
        listing: of the samples, as the head wrote it; None, or where there is none = they are
            looked for here. device: see `prepare`.

    Raises:
        OtherJobError: this machine would give other numbers; it says which part differs.
        AsapEvalError: something that the job needs is not here (weights, data, packages).
    """
    if how.plugins:
        plugins.load(how.plugins)
    with trusting(listing):
        ready = prepare(record.job, imagenet=how.imagenet, device=device)
    if ready.key != record.key:
        raise OtherJobError(_other(record, ready))
    return keeping_pictures(ready, how.cache)


def calibration_of(ready: Prepared, how: Opening) -> Calibration:
    """The knob that meets the job's budget; errors as `calibrate`."""
    return calibrate(ready, how.loaders)


def reducer_of(ready: Prepared, record: RunRecord) -> Reducer:
    """The method with its knob as given, or as the budget found it."""
    return ready.reducer if ready.job.budget is None else ready.with_knob(record.knob)


def rows_of(
    ready: Prepared, record: RunRecord, piece: Piece, how: Opening
) -> Generator[list[Row], None, None]:
    """Rows of a piece, one batch after the other; close it to take the method out of the model.

    Args:
        record: with its calibration, where the job has a budget. piece: any whole batches, so that
            a piece is taken up again after those that are written.
    """
    job = ready.job
    batches = ready.bench.batches(
        ready.loaded,
        ready.samples,
        batch_size=job.batch_size,
        workers=how.loaders,
        start=piece.start,
        stop=piece.stop,
    )
    return ready.bench.evaluate(ready.loaded, reducer_of(ready, record), batches, seed=job.seed)


def check_data(ready: Prepared, piece: Piece) -> None:
    """Look at the files of a piece, where they were listed elsewhere.

    Raises:
        OtherJobError: one is missing here, or another one than where the command began.
    """
    try:
        ready.samples.check(piece.start, piece.stop)
    except DataError as error:
        raise OtherJobError(
            f"The worker on {socket.gethostname()} has other data: {error}"
        ) from error


def _other(record: RunRecord, ready: Prepared) -> str:
    """What differs between the machine that began a job and this one, and what to do."""
    said, host = record.provenance, socket.gethostname()
    for what, there, here, remedy in (
        ("code", said.sources, ready.sources, "install the same version"),
        ("weights", said.weights["sha256"], ready.loaded.weights.sha256, "give it the same file"),
        ("samples", said.data["ids_digest"], ready.samples.digest, _SAME_DATA),
        ("data", said.data["content"], ready.content, _SAME_DATA),
    ):
        if there != here:
            return _differs(host, what, there[:8], here[:8], remedy)
    for name, version in packages().items():
        if (there := said.packages.get(name, "none")) != version:
            return _differs(host, name, there, version, "install the same version")
    return (
        f"The worker on {host} would give other numbers for {record.stem}: its attention kernel or "
        "a file that the job's options name is another one. Use machines of one kind."
    )


_SAME_DATA = "give it the same data, by a path that all machines see"


def _differs(host: str, what: str, there: str, here: str, remedy: str) -> str:
    return (
        f"The worker on {host} has other {what} ({there} where the command began, {here} on "
        f"{host}): {remedy}."
    )
