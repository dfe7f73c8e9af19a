"""Features of all videos on the disk, written once, in shards; an interrupted run goes on.

A shard is a safetensors file named by the place of its first video; it holds ``features [n, V, D]``
fp32 and, in its metadata, what is wrong with videos that could not be read (their features are 0).
It is put in place when it is whole, and ends where a batch ends: a resumed run makes the same
batches, so its features are the same bits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from asap_eval.errors import DataError
from asap_eval.files.tensors import save_tensors

SECONDS, VIDEOS = 30.0, 1024
"""A shard is closed after this much time or this many videos, whichever comes first."""

Encoded = tuple[Tensor, dict[int, str]]
"""Features ``[b, V, D]`` of a batch, and what is wrong with videos of it, by place in it."""


@dataclass(frozen=True)
class Features:
    """Of all videos of a set: ``values [n, V, D]`` fp32, and the unreadable ones by place."""

    values: Tensor
    failures: dict[int, str]


def cached_features(
    folder: Path,
    total: int,
    encode: Callable[[int], Iterator[Encoded]],
    about: Mapping[str, object],
    progress: Callable[[int], None],
) -> Features:
    """Features of ``total`` videos, those that are missing in the folder added to it.

    Args:
        folder: of this set of videos and this way to encode them alone. encode: batches from a
            place on. about: what the features are, for people who look into a shard. progress:
            called with the number of videos done.

    Raises:
        DataError: a shard is damaged.
    """
    parts: list[Tensor] = []
    failures: dict[int, str] = {}
    for shard in _whole(folder):
        values, failed = _read(shard)
        failures.update({place + _end(parts): why for place, why in failed.items()})
        parts.append(values)
        progress(len(values))
    pending: list[Tensor] = []
    wrong: dict[int, str] = {}
    begun = time.monotonic()
    batches = encode(_end(parts)) if _end(parts) < total else iter(())
    for values, failed in batches:
        wrong.update({place + _end(pending): why for place, why in failed.items()})
        pending.append(values)
        start, count = _end(parts), _end(pending)
        last = start + count >= total
        if last or count >= VIDEOS or time.monotonic() - begun >= SECONDS:
            _write(folder / f"{start:08d}.safetensors", torch.cat(pending), wrong, about)
            failures.update({start + place: why for place, why in wrong.items()})
            parts.append(torch.cat(pending))
            pending, wrong, begun = [], {}, time.monotonic()
        progress(len(values))
    return Features(torch.cat(parts), failures)


def count_cached(folder: Path) -> int:
    """Videos whose features are there."""
    return sum(len(_read(shard)[0]) for shard in _whole(folder))


def _end(parts: list[Tensor]) -> int:
    return sum(map(len, parts))


def _whole(folder: Path) -> Iterator[Path]:
    """Shards from the first video on, as far as they follow each other."""
    at = 0
    while (shard := folder / f"{at:08d}.safetensors").exists():
        yield shard
        at += len(_read(shard)[0])


def _read(shard: Path) -> Encoded:
    try:
        with safe_open(shard, "pt") as file:
            failed = json.loads(file.metadata()["failures"])
            return file.get_tensor("features"), {int(at): why for at, why in failed.items()}
    except (SafetensorError, OSError, KeyError) as error:
        raise DataError(f"The cached features {shard} are damaged ({error}): remove it.") from error


def _write(path: Path, values: Tensor, failed: dict[int, str], about: Mapping[str, object]) -> None:
    metadata = {"failures": json.dumps(failed), "about": json.dumps(about, sort_keys=True)}
    save_tensors({"features": values}, path, metadata)
