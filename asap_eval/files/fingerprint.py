"""What data files hold, as one hash: numbers of other bytes are other numbers.

Names, sizes and times can lie: a file is written again under its name, with its old size, within
one tick of the clock, and a copied folder has other times than its equal original. So bytes decide.
Up to `WHOLE` bytes in all every byte is read. Of a larger set each file counts by its size and by
blocks of `BLOCK` bytes: its head, its tail and others evenly between, at least `BLOCKS` of them and
never more than `APART` bytes apart. What that cannot see is a change between two blocks that leaves
the size as it was, such as one byte edited in place.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from asap_eval.files.archive import AnyPath

WHOLE = 8 << 30
BLOCK, BLOCKS, APART = 1 << 12, 8, 1 << 20
"""Bytes; blocks of a file; bytes."""

THREADS, TOGETHER = 8, 64
"""Threads that read, so that a network's answers are waited for together; files in turn of each."""

SETTLED = 2 * 10**9
"""Nanoseconds after its last change from which on a file's times tell it from its next change."""


class _Seen(NamedTuple):
    """A file as it was when it was read: where its bytes lie, their number and its times."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


_ABSENT = hashlib.sha256(b"absent").digest()
_known: dict[tuple[str, bool], tuple[_Seen, bytes]] = {}
"""Digests of this process: the rows of a sweep read the same files."""


def content_of(files: Iterable[AnyPath]) -> str:
    """Hex digest of what files hold, in order, wherever they lie; one that cannot be read counts
    as absent.
    """
    paths = list(files)
    parts = [paths[at : at + TOGETHER] for at in range(0, len(paths), TOGETHER)]
    with ThreadPoolExecutor(THREADS) as pool:
        seen = [one for part in pool.map(_seen_all, parts) for one in part]
        whole = sum(one.size for one in seen if one) <= WHOLE
        digest = hashlib.sha256(b"whole" if whole else b"sampled")
        for part in pool.map(partial(_digests, whole=whole), parts):
            digest.update(b"".join(part))
    return digest.hexdigest()


def _seen_all(paths: Sequence[AnyPath]) -> list[_Seen | None]:
    return [_seen(path) for path in paths]


def _digests(paths: Sequence[AnyPath], whole: bool) -> list[bytes]:
    return [_digest(path, whole) for path in paths]


def _seen(path: AnyPath) -> _Seen | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return _Seen(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _digest(path: AnyPath, whole: bool) -> bytes:
    seen = _seen(path)
    known = _known.get((str(path), whole))
    if known is not None and known[0] == seen:
        return known[1]
    begun = time.time_ns()
    try:
        found = _read(path, whole)
    except OSError:
        return _ABSENT
    # Of a file changed just now another change may leave the times as they are.
    if seen is not None and max(seen.modified, seen.changed) < begun - SETTLED:
        _known[str(path), whole] = seen, found
    return found


def _read(path: AnyPath, whole: bool) -> bytes:
    """The digest of one file: its size, and its bytes or blocks of them."""
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        if whole or size <= BLOCK * BLOCKS:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        else:
            for start in _starts(size):
                file.seek(start)
                digest.update(file.read(BLOCK))
    return digest.digest()


def _starts(size: int) -> list[int]:
    """Where the blocks of a large file begin: the first at its head, the last at its tail."""
    last = size - BLOCK
    count = max(BLOCKS, 1 + -(-last // APART))
    return [at * last // (count - 1) for at in range(count)]
