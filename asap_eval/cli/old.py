"""Commands under their names of version 0.1; they go with the next release."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from asap_eval.cli.front import main


def _renamed(old: str, new: str, words: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    print(
        f"{old} is now `asap-eval {new}`; the old name goes with the next release.", file=sys.stderr
    )
    return main([new, *words])


report = partial(_renamed, "asap-report", "report")
ls = partial(_renamed, "asap-eval-ls", "ls")
cases = partial(_renamed, "asap-eval-cases", "cases")
recompute = partial(_renamed, "asap-eval-recompute", "recompute")
head = partial(_renamed, "asap-eval-head", "head")
train = partial(_renamed, "asap-train", "train")


def strip() -> int:
    """Options of a method were ``--option name=value``."""
    words: list[str] = []
    for word in sys.argv[1:]:
        if words[-1:] == ["--option"]:
            words[-1] = f"method.{word}"
        elif word.startswith("--option="):
            words.append(f"method.{word.removeprefix('--option=')}")
        else:
            words.append(word)
    return _renamed("asap-eval-strip", "strip", words)
