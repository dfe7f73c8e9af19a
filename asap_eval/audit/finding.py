"""What an audit finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asap_eval.paper import PaperRow, PaperTable

Kind = Literal["last digit", "does not recompute", "contradicts", "printed again", "outside fact"]
"""``last digit``: rounding of the printed cells can explain it; ``does not recompute``: it cannot.
``contradicts``: another figure of the paper says otherwise. ``printed again``: it is the figure of
another row, for what must have one of its own. ``outside fact``: a cited source says otherwise.
"""


@dataclass(frozen=True)
class Finding:
    """One printed figure that does not hold.

    Attributes:
        table: ``Table 7``, or the place in the text. row, column: which figure.
        published: as printed. recomputed: what comes out. how: from which figures, and how.
    """

    table: str
    row: str
    column: str
    published: str
    recomputed: str
    how: str
    kind: Kind


@dataclass(frozen=True)
class Check:
    """One rule: how many figures it was applied to, and those that failed it.

    Attributes:
        rule: what has to hold. cells: figures checked. missing: why it could not be applied.
    """

    rule: str
    cells: int
    findings: tuple[Finding, ...] = ()
    missing: str = ""


def finding(
    table: PaperTable, row: PaperRow, column: str, recomputed: str, how: str, kind: Kind
) -> Finding:
    """One about a figure of a table, which is quoted as printed."""
    return Finding(table.label, row.name, column, row.printed[column], recomputed, how, kind)


def figure(row: PaperRow, column: str) -> float:
    """A figure that the paper prints as a number."""
    value = row.value(column)
    assert value is not None, f"{row.name} has no number in {column}"
    return value
