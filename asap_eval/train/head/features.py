"""Features of all videos on the disk, written once, in shards; an interrupted run goes on.

A shard is a safetensors file named by the place of its first video; it holds ``features [n, V, D]``
fp32 and, in its metadata, what is wrong with videos that could not be read (their features are 0).
It is put in place when it is whole, and ends where a batch ends: whoever encodes the next videos
makes the same batches, so the features are the same bits.

Several processes may fill one folder: videos are claimed in pieces, by locks that the system frees
when their holder dies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from asap_eval.errors import DataError
from asap_eval.files.tensors import save_tensors
from asap_eval.runner.lock import locked_if_free
from asap_eval.runner.pieces import Piece, pieces

SECONDS = 30.0
"""A shard is closed after this much time, or where its piece ends."""
PIECE = 64
"""Videos that a process claims at once, in whole batches."""
PAUSE = 1.0
"""Seconds between two looks while other processes encode all that is left."""

Encoded = tuple[Tensor, dict[int, str]]
"""Features ``[b, V, D]`` of a batch, and what is wrong with videos of it, by place in it."""


@dataclass(frozen=True)
class Features:
    """Of all videos of a set: ``values [n, V, D]`` fp32, and the unreadable ones by place."""

    values: Tensor
    failures: dict[int, str]


def cached_features(
    folder: Path,
    ends: Sequence[int],
    total: int,
    encode: Callable[[int, int], Iterator[Encoded]],
    about: Mapping[str, object],
    progress: Callable[[int], None],
) -> Features:
    """Features of ``total`` videos, those that are missing in the folder added to it.

    Args:
        folder: of this set of videos and this way to encode them alone. ends: videos done after
            each whole batch. encode: batches of the videos from one place up to another. about:
            what the features are, for people who look into a shard. progress: called with the
            number of videos done, by this process or another.

    Raises:
        DataError: a shard is damaged.
    """
    cut, said, shards = pieces(ends, total, PIECE), 0, _Shards(folder)
    while left := _left(cut, shards):
        claimed = False
        for piece in left:
            with locked_if_free(folder / f"{piece.start:08d}.lock") as mine:
                if not mine:
                    continue
                claimed = True
                for count in _fill(shards, piece, encode, about):
                    progress(count)
                    said += count
        if not claimed:
            time.sleep(PAUSE)
    progress(total - said)
    return _all(shards)


def count_cached(folder: Path) -> int:
    """Videos whose features are there."""
    return sum(stop - start for start, stop, _ in _Shards(folder).placed())


class _Shards:
    """The shards of a folder. One that is in place changes no more: its header is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stops: dict[Path, int] = {}

    def placed(self) -> list[tuple[int, int, Path]]:
        """First video, the one after the last, and file of every shard that is there, in order."""
        found = []
        for path in sorted(self.folder.glob("*.safetensors")):
            start = int(path.stem)
            if path not in self._stops:
                with _opened(path) as file:
                    self._stops[path] = start + file.get_slice("features").get_shape()[0]
            found.append((start, self._stops[path], path))
        return found


def _left(cut: Sequence[Piece], shards: _Shards) -> list[Piece]:
    """Pieces of which videos are missing."""
    placed = shards.placed()
    return [piece for piece in cut if _reached(placed, piece) < piece.stop]


def _fill(
    shards: _Shards,
    piece: Piece,
    encode: Callable[[int, int], Iterator[Encoded]],
    about: Mapping[str, object],
) -> Iterator[int]:
    """Encode what is missing of a piece whose lock is held; videos done, batch by batch."""
    at = _reached(shards.placed(), piece)
    pending: list[Tensor] = []
    wrong: dict[int, str] = {}
    begun = time.monotonic()
    for values, failed in encode(at, piece.stop) if at < piece.stop else ():
        count = sum(map(len, pending))
        wrong.update({place + count: why for place, why in failed.items()})
        pending.append(values)
        count += len(values)
        if at + count >= piece.stop or time.monotonic() - begun >= SECONDS:
            _write(shards.folder / f"{at:08d}.safetensors", torch.cat(pending), wrong, about)
            at, pending, wrong, begun = at + count, [], {}, time.monotonic()
        yield len(values)


def _reached(placed: Sequence[tuple[int, int, Path]], piece: Piece) -> int:
    """Up to which video of a piece shards follow each other; they may be of another cut."""
    at = piece.start
    for start, stop, _ in placed:
        if start <= at < stop:
            at = stop
    return at


def _all(shards: _Shards) -> Features:
    """All shards together; of videos that two of them hold the first one's."""
    parts: list[Tensor] = []
    failures: dict[int, str] = {}
    at = 0
    for start, stop, path in shards.placed():
        values, failed = _read(path)
        if stop > at:
            parts.append(values[at - start :])
            failures.update({start + place: why for place, why in failed.items()})
            at = stop
    return Features(torch.cat(parts), failures)


@contextmanager
def _opened(shard: Path) -> Iterator[Any]:
    try:
        with safe_open(shard, "pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError) as error:
        raise DataError(f"The cached features {shard} are damaged ({error}): remove it.") from error


def _read(shard: Path) -> Encoded:
    with _opened(shard) as file:
        failed = json.loads(file.metadata()["failures"])
        return file.get_tensor("features"), {int(at): why for at, why in failed.items()}


def _write(path: Path, values: Tensor, failed: dict[int, str], about: Mapping[str, object]) -> None:
    metadata = {"failures": json.dumps(failed), "about": json.dumps(about, sort_keys=True)}
    save_tensors({"features": values}, path, metadata)
