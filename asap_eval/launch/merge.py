"""The pieces of a job put together: its per-sample file, and its record, which is done then.

Everything here is done under the job's lock, and again from the start after any stop: pieces stay
until the record says ``done``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from asap_eval.errors import RecordError
from asap_eval.files.placed import placed
from asap_eval.launch.computer import Computer
from asap_eval.launch.parts import Parts
from asap_eval.record import RunRecord, read_record, write_record
from asap_eval.record.journal import Journal, Rows, Stored
from asap_eval.runner.conclude import conclude
from asap_eval.runner.earlier_records import Kept, finished, journal_of
from asap_eval.runner.prepare import Prepared


def merge(
    ready: Prepared,
    record: RunRecord,
    parts: Parts,
    baseline: Kept | None,
    computer: Computer,
) -> None:
    """Make the record of a job whose pieces are all there, and remove them.

    Args:
        record: running, as it stands on the disk. baseline: the unpruned model's record, done.
        computer: measures speed, where the job asks for it.

    Raises:
        RecordError: a piece is damaged; it is gone then, and is to be computed again. Or all are
            gone: without locks another worker may have ended the job meanwhile.
        AsapEvalError: what the rows say, or the data, is no record.
    """
    begin = time.perf_counter()
    path, journal = parts.record, journal_of(parts.record)
    rows = joined(parts, ready.samples.ids, journal.path)
    pieces = parts.cut()
    ready.bench.gather(path.with_suffix(""), [(parts.stem_of(p), p.stop - p.start) for p in pieces])
    record.provenance.workers = _workers(parts)
    record.provenance.machine = computer.machine(record)

    def forget() -> None:
        journal.remove()
        parts.remove()  # first: rows of one knob are never gone on with under another
        current = read_record(path)
        current.provenance.calibration = None
        write_record(current, path.parent)

    speed = partial(computer.speed, record)
    conclude(ready, path, record, rows, baseline, speed, forget)
    record.provenance.duration_s = time.perf_counter() - begin + _seconds(parts)
    if finished(path) is None:  # without locks another worker may have been faster
        write_record(record, path.parent)
    parts.remove()


def joined(parts: Parts, ids: Sequence[str], path: Path) -> Rows:
    """Rows of all pieces in order, written to the per-sample file as one process would have.

    Raises:
        RecordError: see `merge`.
    """
    done = 0
    with placed(path) as part, part.open("wb") as file:
        for piece in parts.cut():
            whole = parts.whole(piece)
            try:
                found = Journal(whole).read()
                if [row["id"] for row in found] != list(ids[piece.start : piece.stop]):
                    raise RecordError(f"{whole} has other samples than its piece.")
            except RecordError:
                whole.unlink(missing_ok=True)
                raise
            done += len(found)
            with whole.open("rb") as read:
                shutil.copyfileobj(read, file)
        if done != len(ids):
            raise RecordError(f"{parts.folder} was removed while its pieces were put together.")
    return Stored(Journal(path), done)


def _workers(parts: Parts) -> list[dict[str, Any]]:
    """Who computed the rows, as the record has it."""
    return [
        {
            "host": one.host,
            "device": one.device,
            "threads": one.threads,
            "pieces": len(one.pieces),
            "samples": one.samples,
        }
        for one in parts.workers()
        if one.samples
    ]


def _seconds(parts: Parts) -> float:
    """Seconds from the first worker's first word to the latest one's."""
    words = [(one.began, one.latest) for one in parts.workers() if one.samples]
    return max(b for _, b in words) - min(a for a, _ in words) if words else 0.0
