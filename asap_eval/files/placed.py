"""Files put in place whole: written beside it under another name, then renamed over it.

Whoever reads the path finds the old file or the new one, through an error, a kill and a machine
that stops. After any but a kill nothing else is left; a kill may leave the part, a hidden file
that ends in ``.part`` and that nobody reads. What is appended to (journals) is not written so.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMED = 40
"""Characters of a file's name in that of its part: the whole could be too long with more to it."""

UNABLE = frozenset({errno.EACCES, errno.EPERM, errno.EBADF, errno.EINVAL, errno.EOPNOTSUPP})
"""What a folder's sync gives where there is none: Windows, some network file systems."""


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """Write a file: all of it or nothing. Missing folders are made.

    Yields:
        The path of the part, where nothing is yet: write this file, and close it. It goes to the
        disk and into place at the end of the block, and is removed if the block raises.

    Raises:
        OSError: a folder or device is there, the folder cannot be written or the disk is full; an
            older file is then still whole.
    """
    if path.exists() and not path.is_file():  # root could rename a file over a device
        kind = errno.EISDIR if path.is_dir() else errno.EEXIST
        raise OSError(kind, os.strerror(kind), str(path))
    with part_of(path) as part:
        yield part
        put(part, path)


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """As `placed`, for a file whose name follows from its content: `put` it within the block.

    Args:
        path: in the folder it will be in; what is not put is removed at the end of the block.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of two containers may share a folder and have one number; threads always have.
    own = f"{os.getpid()}-{secrets.token_hex(4)}"
    part = path.parent / f".{path.name[:NAMED]}.{own}.part"
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def put(part: Path, path: Path) -> None:
    """Bring a written part to the disk and rename it, so that it takes the place of an older file
    or link at once; errors as `placed`.
    """
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring a renaming to the disk, where the platform can."""
    try:
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
