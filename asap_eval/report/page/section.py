"""Tables of the page under one heading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from asap_eval.report.page.headline import Sentence
from asap_eval.report.sheet import Sheet


@dataclass(frozen=True)
class Section:
    """Tables under one heading, the first ones open at once, the others behind a fold.

    Attributes:
        shown: how many are open; None = all. said: what they say, above them.
    """

    name: str
    title: str
    lead: str
    sheets: tuple[Sheet, ...]
    shown: int | None = None
    said: tuple[Sentence, ...] = ()


def named(name: str, sheets: Sequence[Sheet]) -> tuple[Sheet, ...]:
    """Sheets with a name of their own on the page."""
    return tuple(replace(sheet, name=f"{name}-{at}") for at, sheet in enumerate(sheets, 1))
