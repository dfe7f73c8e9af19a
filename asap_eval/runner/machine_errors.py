"""Errors of the machine (memory, disk, files) and of methods of others, in words that help."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from asap_eval.errors import AsapEvalError
from asap_eval.plugins import raised_in
from asap_eval.record import Job
from asap_eval.timing.memory import out_of_memory


@contextmanager
def explaining(job: Job) -> Iterator[None]:
    """Turn full memory, a full disk, refused files and errors in a method of others into errors
    that say what to do, or where."""
    try:
        yield
    except AsapEvalError:
        raise
    except Exception as error:
        message = explained(error, job)
        if message is None:
            raise
        raise AsapEvalError(message) from error


def explained(error: BaseException, job: Job) -> str | None:
    """One line for an error of the machine or of a method of others; None for any other."""
    if out_of_memory(error):
        return (
            f"Out of memory on {job.device} at batch_size={job.batch_size}. Choose a smaller "
            "batch_size; it is never changed silently, because rows would no longer compare."
        )
    return of_files(error) if isinstance(error, OSError) else raised_in(error)


def of_files(error: OSError) -> str:
    """One line for a full disk and refused files."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "The disk is full. Free some space and give the same command again: it goes on after "
            "the last batch that was written."
        )
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}."


def described(error: BaseException, job: Job) -> str:
    """What a failed record says."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, AsapEvalError):
        return str(error)
    return explained(error, job) or f"{type(error).__name__}: {error}"
