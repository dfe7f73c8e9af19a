"""Errors a person can act on: what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager


class AsapEvalError(Exception):
    """Base of every error this package raises on purpose; printed without a stack trace."""


class UnknownNameError(AsapEvalError):
    """A model, method, option or file name that does not exist."""


class UnsupportedModelError(AsapEvalError):
    """A model (or a method on a model) that no host can run faithfully."""


class BadValueError(AsapEvalError):
    """A value outside what its option allows."""


class DataError(AsapEvalError):
    """Images, labels or folders that cannot be used."""


class WeightsError(AsapEvalError):
    """A checkpoint that is missing, unsafe or does not fit the model."""


class BudgetError(AsapEvalError):
    """A budget that no value of the method's knob can meet."""


class UnreachableError(BudgetError):
    """A target outside what the knob reaches: a finding about a method, not a mistake."""


class KernelError(AsapEvalError):
    """A compiled kernel that cannot be had on this machine."""


class SetUpError(AsapEvalError):
    """Something that lets every sample fail: data, model or installation."""


class RecordError(AsapEvalError):
    """A record or per-sample file that cannot be read or written."""


def unknown(kind: str, given: str, allowed: Iterable[str]) -> UnknownNameError:
    """The error for a name that does not exist: near names first, then the whole list."""
    options = sorted(allowed)
    near = difflib.get_close_matches(given, options, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    listed = ", ".join(options) if options else "none"
    return UnknownNameError(f"Unknown {kind} '{given}'.{hint} Available: {listed}.")


def some_of(names: Sequence[str], shown: int, rest: str = ", ...") -> str:
    """The first few names of a list; ``rest`` ends it where there are more, ``{}`` = how many."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (rest.format(more) if more > 0 else "")


def message(error: BaseException) -> str:
    """What an error says in its first line, or its kind where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def first_line(error: BaseException) -> str:
    """Kind and first line of an error of another library, without a full stop."""
    line = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {line}"


@contextmanager
def reraised(kind: type[AsapEvalError], says: Callable[[BaseException], str]) -> Iterator[None]:
    """Turn whatever a library raises inside into an error of ours that says what happened.

    Libraries raise errors of many kinds without a common base. Our own errors pass as they are,
    and so does `MemoryError`: it says nothing of the data.
    """
    try:
        yield
    except (AsapEvalError, MemoryError):
        raise
    except Exception as error:
        raise kind(says(error)) from error
