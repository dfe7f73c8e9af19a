"""A job made ready for workers: its running record, and where its pieces end."""

from __future__ import annotations

from pathlib import Path

from asap_eval.data.images import ImageSet
from asap_eval.data.listed import write_listing
from asap_eval.data.named import address_of
from asap_eval.files import digests
from asap_eval.files.placed import put
from asap_eval.launch.parts import Parts
from asap_eval.record import write_record
from asap_eval.record.files import write_json
from asap_eval.record.journal import Journal
from asap_eval.runner.earlier_records import interrupted, journal_of
from asap_eval.runner.pieces import Piece, cut
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.progress import say
from asap_eval.runner.provenance import Request
from asap_eval.runner.started_record import started_record


def begin(
    ready: Prepared,
    path: Path,
    request: Request,
    *,
    anew: bool,
    size: int | None,
    device: str | None = None,
) -> None:
    """Write the running record of a job whose lock is held, and the cut into pieces.

    What an earlier try left goes on: pieces of workers, or the per-sample file of one process,
    which becomes the first piece.

    Args:
        path: of the record. anew: whether all that is left is thrown away. size: of a piece, see
            `cut`; where pieces lie there they keep theirs. device: where the model was opened, None
            = where the job says.
    """
    parts, journal = Parts(path.parent, path.stem), journal_of(path)
    earlier = None if anew else interrupted(path)
    if earlier is None:
        journal.remove()
        parts.remove()
    if not parts.cut():
        _cut(ready, parts, journal, size)
    parts.failed.unlink(missing_ok=True)
    for tries in parts.folder.glob("*.tries"):
        tries.unlink(missing_ok=True)
    _list(ready, parts)
    write_json(parts.digests, digests.found())
    record = started_record(ready, earlier, journal.path.name, request, device)
    write_record(record, path.parent)


def _list(ready: Prepared, parts: Parts) -> None:
    """The listing of the samples, for workers; of images alone, whose stores can be listed."""
    samples = ready.samples
    if not isinstance(samples, ImageSet):
        return
    contents = [(samples.places, ready.content)]
    if ready.job.budget is not None:
        searched, _ = samples.calibration(ready.job.budget.samples)
        contents.append((searched.places, searched.content()))
    write_listing(parts.listing, address_of(ready.job.data), samples.store, contents)


def _cut(ready: Prepared, parts: Parts, journal: Journal, size: int | None) -> None:
    """The cut into pieces; rows of one process are the first of them.

    Their file goes into place before the cut says so: a stop between the two loses nothing.
    """
    samples, batch_size = ready.samples, ready.job.batch_size
    ends = ready.bench.ends(samples, batch_size)
    first, done = parts.whole(Piece(0, 0)), 0
    if not first.exists() and journal.resume(samples.ids, ends):
        first.parent.mkdir(parents=True, exist_ok=True)
        put(journal.path, first)
    if first.exists():
        done = len(Journal(first).resume(samples.ids, ends))
        say(f"{done} of {len(samples)} samples are there already, from an earlier run.")
    rest = cut(ready.bench, samples, batch_size, size, done)
    parts.write_cut([*([Piece(0, done)] if done else []), *rest], adopted=done > 0)
