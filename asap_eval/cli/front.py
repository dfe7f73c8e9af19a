"""``asap-eval``: the first word chooses a command; without one, a run.

Nothing here and nothing that ``--help`` and ``--version`` need imports torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import asap_eval
from asap_eval.cli.guard import INTERRUPTED, guarded
from asap_eval.cli.words import asks_for_help
from asap_eval.errors import UnknownNameError, unknown

COMMANDS = {
    "run": "asap_eval.cli.run",
    "ls": "asap_eval.cli.ls",
    "jobs": "asap_eval.cli.jobs",
    "report": "asap_eval.cli.report",
    "train": "asap_eval.cli.train",
    "head": "asap_eval.cli.head",
    "strip": "asap_eval.cli.strip",
    "cases": "asap_eval.cli.cases",
    "check": "asap_eval.cli.check",
    "new": "asap_eval.cli.new",
    "recompute": "asap_eval.cli.recompute",
    "doctor": "asap_eval.cli.doctor",
    "completion": "asap_eval.cli.completion",
}
"""Commands and the modules that run them: ``main(words)``. Loaded when asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code is 0 only if everything it asks for succeeded."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = guarded(lambda: _chosen(words))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read it has seen enough (`| head`); Python would write to it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _chosen(words: list[str]) -> int:
    """Run the command that the first word names.

    Raises:
        UnknownNameError: there is no such command.
    """
    if "--version" in words or words == ["version"]:
        print(f"asap-eval {asap_eval.__version__}")
        return 0
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    name = "run" if not words or _is_key(words[0]) else words.pop(0)
    if name not in COMMANDS:
        raise _no_command(name, words)
    if name == "run" and asks_for_help(words):
        from asap_eval.cli.help import text

        print(text())
        return 0
    return int(importlib.import_module(COMMANDS[name]).main(words))


def _is_key(word: str) -> bool:
    """Whether a word belongs to a run: an override, or an option."""
    return "=" in word or word.startswith(("-", "+", "~"))


def _no_command(name: str, rest: Sequence[str]) -> UnknownNameError:
    from asap_eval.cli.groups import GROUPS, root_keys

    if name in (*GROUPS, *root_keys()) and rest[:1] == ["="]:
        given = "".join(rest[:2])
        return UnknownNameError(f"'{name} = ...': give {name}{given} without spaces around =.")
    if name in (*GROUPS, *root_keys()):
        value = rest[0] if rest else "<value>"
        return UnknownNameError(f"'{name}' is a key, not a command: give {name}={value}.")
    error = unknown("command", name, COMMANDS)
    return UnknownNameError(f"{error} A run needs none: asap-eval key=value ...")
