"""Where a job is cut into pieces for several workers: at batch ends, whatever their number.

A piece has whole batches of the run of one process, so its rows are those that one process would
have written. The cut depends on the job and on the size of a piece alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from asap_eval.errors import BadValueError

if TYPE_CHECKING:
    from asap_eval.bench.bench import AnyBench, Samples


class Piece(NamedTuple):
    """Consecutive samples ``start`` to ``stop`` of a job, ``stop`` left out."""

    start: int
    stop: int


def parts_folder(path: Path) -> Path:
    """Where workers put the pieces of a job, beside its record."""
    return path.parent / f".{path.stem}.parts"


def pieces(ends: Sequence[int], n: int, size: int, start: int = 0) -> list[Piece]:
    """Consecutive batches together, until they hold ``size`` samples.

    Args:
        ends: samples done after each whole batch (`Bench.ends`). n: samples of the job; those
            after the last whole batch are a batch of their own. size: of a piece. start: the end of
            a batch, where the first piece begins.

    Raises:
        BadValueError: a size below 1.
    """
    if size < 1:
        raise BadValueError(f"launch.piece={size}: give a number of samples >= 1.")
    found: list[Piece] = []
    for end in [*ends, n]:
        if end - start >= size or (end == n and start < n):
            found.append(Piece(start, end))
            start = end
    return found


def cut(
    bench: AnyBench, samples: Samples, batch_size: int, size: int | None, done: int = 0
) -> list[Piece]:
    """The pieces of a job; a single one where the benchmark cannot be spread.

    Args:
        size: ``launch.piece``, None = as many samples as the benchmark says, at least a batch.
        done: samples whose rows are there already, whole batches: the first piece comes after them.
    """
    n = len(samples)
    if bench.no_pieces is not None:
        return [Piece(done, n)] if done < n else []
    if size is None:
        size = max(bench.samples_per_batch(batch_size), bench.piece)
    return pieces(bench.ends(samples, batch_size), n, size, done)
