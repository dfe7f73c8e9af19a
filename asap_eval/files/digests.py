"""sha256 of files: a large one is read once, and again when it was written anew.

What was found is kept in the user's cache under everything that moves when a file is written: its
real path, size, times and inode. The time of change cannot be set by hand, so that a copy which
keeps the date of another file is seen.

A worker on another machine has no such cache, and there a file has another inode: it takes the word
of the command that began its job (`trust`), for a file of the same path, size and time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from asap_eval.files.placed import placed
from asap_eval.paths import cache_folder

WORTH = 1 << 24
"""Bytes from which on a file's digest is kept: reading less takes a hundredth of a second."""

Told = tuple[int, int, str]
"""Bytes of a file, nanoseconds of its last change, and its digest."""

SETTLED = 2.0
"""Seconds for which a file has to have lain still: clocks of file systems tick coarsely, and a
write in the same tick as the reading would not be seen."""


_found: dict[str, Told] = {}
"""Digests of large files that this process found, by their real paths."""
_told: dict[str, Told] = {}
"""What another process found."""


def found() -> dict[str, Told]:
    """Digests of the large files that this process asked for, to be told to others."""
    return dict(_found)


def trust(told: Mapping[str, Sequence[int | str]]) -> None:
    """Take another process's word (`found`, maybe through JSON) for files that look the same."""
    _told.update({path: (int(size), int(at), str(sha)) for path, (size, at, sha) in told.items()})


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    before = path.stat()
    if before.st_size < WORTH:
        return _read(path)
    real = path.resolve()
    size, at, digest = _told.get(str(real), (-1, -1, ""))
    if (size, at) != (before.st_size, before.st_mtime_ns):
        digest = _sha256(path, real, before)
    _found[str(real)] = before.st_size, before.st_mtime_ns, digest
    return digest


def _sha256(path: Path, real: Path, before: os.stat_result) -> str:
    """As it was kept, or read and kept."""
    entry = _entry(real)
    stamp = _stamp(before)
    if (known := _known(entry, stamp)) is not None:
        return known
    begun = time.time()
    digest = _read(path)
    still = begun - max(before.st_mtime, before.st_ctime) > SETTLED
    if still and _stamp(path.stat()) == stamp:
        _keep(entry, stamp, digest)
    return digest


def files_sha256(paths: Iterable[Path]) -> str:
    """Hex digest of several files, over their names and contents in the order of their names."""
    lines = sorted(f"{path.name} {file_sha256(path)}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _stamp(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_dev, found.st_ino]


def _entry(real: Path) -> Path:
    """Where the digest of a file is kept."""
    name = hashlib.sha256(os.fsencode(real)).hexdigest()
    return cache_folder() / "digests" / f"{name}.json"


def _known(entry: Path, stamp: list[int]) -> str | None:
    try:
        kept = json.loads(entry.read_text(encoding="utf-8"))
        return str(kept["sha256"]) if kept["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: the file is read
        return None


def _keep(entry: Path, stamp: list[int], digest: str) -> None:
    with suppress(OSError):  # no place to keep it: the next run reads the file again
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with placed(entry) as part:
            part.write_text(json.dumps({"stamp": stamp, "sha256": digest}), encoding="utf-8")
