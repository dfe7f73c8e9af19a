"""``settings=measured``, the default: options whose default per model this project has measured.

``conf/settings/measured/<model>.yaml`` has one entry per method: options under their own names,
``command``, ``images`` and ``result`` (where they were measured, and what came of it), and
``unless`` (options that change what the measured ones mean: where one is given, nothing is taken).
A model without an entry has the method's own defaults.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from asap_eval.cli.entries import Kind, entries, place

KIND: Final[Kind] = "measured"
ABOUT = ("command", "images", "result", "unless")
"""Keys of an entry that are no options of the method."""


@dataclass(frozen=True)
class Taken:
    """What an entry gives to a command line.

    Attributes:
        options: by name. file: the table they stand in, below ``conf/``; "" where none is taken.
    """

    options: dict[str, Any] = field(default_factory=dict)
    file: str = ""


def taken(model: str, method: str, given: Collection[str]) -> Taken:
    """The entry's options that the command line does not give.

    Args:
        given: keys of the command line.
    """
    entry = entries(KIND, model).get(method, {})
    if any(f"method.{option}" in given for option in entry.get("unless", ())):
        return Taken()
    options = {
        option: value
        for option, value in entry.items()
        if option not in ABOUT and f"method.{option}" not in given
    }
    return Taken(options, f"conf/{place(KIND, model).as_posix()}") if options else Taken()


def note(model: str, method: str, found: Taken) -> str:
    """What was chosen, from where, and how to choose otherwise, in a line."""
    said = " ".join(f"method.{option}={value}" for option, value in found.options.items())
    return (
        f"{said}, measured on {model} ({found.file}); give another, or settings=none for the "
        f"defaults of '{method}'."
    )
