"""``asap-eval check``: hold a method to what every method keeps, on models with random weights.

It runs offline, in seconds. ``asap-eval ls checks`` says what is demanded. Where an option does not
fit the small models that are tried, model= names another, of conf/model or timm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asap_eval.cli.guard import FAILED
from asap_eval.cli.words import command, plain
from asap_eval.errors import BadValueError
from asap_eval.report.sheet import DASH, Sheet, sheet_of_text
from asap_eval.testing.demands import Finding


@dataclass
class Asked:
    """Which method, with what."""

    method: str  # its name
    plugins: list[str] = field(default_factory=list)  # files or packages of methods
    k: str | None = None  # its knob; left out = searched where the default changes nothing
    options: dict[str, Any] = field(default_factory=dict)  # of the method
    keep_all: list[str] = field(default_factory=list)  # option=value, with which all tokens stay
    model: str | None = None  # left out = small models of every kind that the method is for
    weights: str | None = None  # a file; left out = random
    wide: bool = False  # what each check ran on, too
    debug: bool = False  # where an error happened


def main(argv: Sequence[str]) -> int:
    """Print one line a check; 1 where one of them failed."""
    return command(argv, Asked, "check", str(__doc__), _checked, places=["method"])


def _checked(asked: Asked) -> int:
    from asap_eval.method import method_class
    from asap_eval.plugins import load
    from asap_eval.report.text import show
    from asap_eval.testing.run import check, left_out  # with torch

    load(asked.plugins)
    found = check(
        asked.method,
        k=_knob(asked.k),
        model=asked.model,
        weights=asked.weights,
        keep_all=_options(asked.keep_all) if asked.keep_all else None,
        **asked.options,
    )
    lacking = left_out(method_class(asked.method)) if asked.model is None else ""
    show([_sheet(asked.method, found, lacking, wide=asked.wide)])
    return FAILED if any(one.failed for one in found) else 0


def _knob(text: str | None) -> float | str | None:
    """A number, or a word that the method may know."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _options(words: Sequence[str]) -> Mapping[str, Any]:
    """Options of the method, each ``option=value``.

    Raises:
        BadValueError: one of them is not.
    """
    for word in words:
        if "=" not in word:
            raise BadValueError(f"keep_all={word}: give option=value, such as keep_all=k=1.")
    return {word.partition("=")[0]: plain(word) for word in words}


def _sheet(method: str, found: Sequence[Finding], lacking: str, *, wide: bool) -> Sheet:
    rows = []
    for one in found:
        why = one.why if one.verdict != "passed" or wide else ""
        rows.append([one.name, one.verdict, why or DASH])
    failed = sum(one.failed for one in found)
    said = f"{failed} of {len(found)} checks failed" if failed else "no check failed"
    return sheet_of_text(
        f"Checks of method={method}: {said}",
        ["check", "verdict", "why"],
        rows,
        notes=["asap-eval ls checks says what each demands.", *([lacking] if lacking else [])],
    )
