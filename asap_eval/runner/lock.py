"""A lock file for each job and results folder: two processes never run the same job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from asap_eval.runner.progress import say


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a record's file; other processes wait, and say so."""
    folder = path.parent / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{path.stem}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("Another process is running this job; waiting for its record.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
