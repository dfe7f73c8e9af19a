"""Exit codes of every command, and errors as one line a person can act on."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from asap_eval.errors import AsapEvalError, BadValueError, UnknownNameError

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes."""


def guarded(step: Callable[[], object], *, debug: bool = False) -> int:
    """Run a step; an error becomes one message and an exit code, with its trace if asked for.

    A step that returns an int returns its exit code.
    """
    try:
        code = step()
    except BrokenPipeError:
        raise  # nobody reads on: no error
    except Exception as error:
        from asap_eval.plugins import raised_in  # nothing that goes well waits for it

        expected = isinstance(error, AsapEvalError)
        text = str(error) if expected else raised_in(error)
        _say(f"error: {text or f'unexpected {type(error).__name__}: {error}'}", style="red")
        if debug:
            traceback.print_exception(error)
        elif not expected:
            _say("debug=true shows where it happened.")
        return USAGE if isinstance(error, (UnknownNameError, BadValueError)) else FAILED
    return code if isinstance(code, int) else 0


def _say(message: str, style: str | None = None) -> None:
    """`asap_eval.runner.progress.say`, without the runner and torch behind it."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(message, style=style, markup=False)
