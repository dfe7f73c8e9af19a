"""A lock file for each job and results folder: two processes never end the same job.

Where a file system has no flock, or one that keeps nobody out, the file's being there is the lock.
It outlives a process that is killed on another machine.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from asap_eval.runner.progress import say, say_once

LOCKS = ".locks"
"""Folder of the locks in a results folder."""
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)
"""What a file system without them says."""


def lock_of(path: Path) -> Path:
    """The lock file of a record's file."""
    return path.parent / LOCKS / f"{path.stem}.lock"


@cache
def locks_hold(folder: Path) -> bool:
    """Whether a lock in a folder keeps a second one out, as seen from this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{os.uname().nodename}-{os.getpid()}.try"
    try:
        with file.open("wb") as first, file.open("wb") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    finally:
        with suppress(OSError):
            file.unlink()


def _lock(file: Path) -> BaseFileLock:
    return FileLock(file) if locks_hold(file.parent) else SoftFileLock(file)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a record's file; other processes wait, and say so."""
    file = lock_of(path)
    lock = _lock(file)
    if not locks_hold(file.parent):
        say_once(
            f"note: {path.parent} has no locks (its file system has no flock that works). As with "
            "launch.locks=off two workers may do the same piece; and who is killed on another "
            f"machine leaves a file in {file.parent} that is to be removed."
        )
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("Another process is running this job; waiting for its record.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_if_free(file: Path) -> Iterator[bool]:
    """Hold a lock file where nobody else does, without waiting.

    Yields:
        Whether it is held here.
    """
    lock = _lock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_held(file: Path) -> bool:
    """Whether a living process holds a lock file; a file that is not there is free."""
    if not file.exists():
        return False
    with locked_if_free(file) as free:
        return not free
