"""A lock file for each job and results folder: two processes never end the same job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from asap_eval.runner.progress import say

LOCKS = ".locks"
"""Folder of the locks in a results folder."""


def lock_of(path: Path) -> Path:
    """The lock file of a record's file."""
    return path.parent / LOCKS / f"{path.stem}.lock"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a record's file; other processes wait, and say so."""
    lock_of(path).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_of(path))
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
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
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
