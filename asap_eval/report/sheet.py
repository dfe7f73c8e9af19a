"""A table as data: what every renderer (terminal, Markdown, CSV, LaTeX, HTML) is given.

Cells hold the text a reader sees, ready in its rounding, and the value behind it, unrounded. A
renderer escapes and lays out; it decides nothing about meaning and changes no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from asap_eval.report.text.terminal import DASH, Table

Kind = Literal["text", "number", "verdict"]
"""Of a column: words (to the left), numbers (to the right, ordered by value), a verdict."""


@dataclass(frozen=True)
class Head:
    """The head of a column.

    Attributes:
        name: what stands in it, without the unit. unit: such as ``%``; empty = none.
        kind: of its cells. group: a head over neighbouring columns of the same group; empty = none.
    """

    name: str
    unit: str = ""
    kind: Kind = "number"
    group: str = ""

    @property
    def text(self) -> str:
        """Name and unit."""
        return " ".join(part for part in (self.name, self.unit) if part)

    @property
    def full(self) -> str:
        """Group, name and unit, for formats with one line of heads."""
        return f"{self.group}: {self.text}" if self.group else self.text


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as shown. value: the number behind it, unrounded; None where it is words or nothing.
        note: what a reader has to know of this cell alone (why it is empty, or not comparable).
    """

    text: str = DASH
    value: float | None = None
    note: str = ""


EMPTY = Cell()
"""A cell that nobody published or measured."""


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        cells: as many as there are columns. section: the block of rows it stands in (a model, a
            number of tokens); empty = none. commands: what made it, one for each record.
    """

    cells: tuple[Cell, ...]
    section: str = ""
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes:
        name: short and unique in its report, for anchors and labels: ``table1-deit_tiny``.
        title: one line above it. caption: what it asks, or is about; may be empty.
        columns: heads. rows: in their order. footnotes: lines below it.
        command: what makes the table itself; empty = none.
    """

    name: str
    title: str
    columns: tuple[Head, ...]
    rows: tuple[Line, ...]
    caption: str = ""
    footnotes: tuple[str, ...] = ()
    command: str = ""

    def without_empty_columns(self) -> Sheet:
        """The same table less the columns in which every cell is a dash."""
        filled = {
            at
            for line in self.rows
            for at, cell in enumerate(line.cells)
            if cell.text != DASH or cell.note
        }
        used = [at for at in range(len(self.columns)) if at in filled]
        return replace(
            self,
            columns=tuple(self.columns[at] for at in used),
            rows=tuple(
                replace(line, cells=tuple(line.cells[at] for at in used)) for line in self.rows
            ),
        )


def sheet_of(table: Table, name: str) -> Sheet:
    """A table of strings (overview, claims, grids) as a sheet; its details become commands.

    Details belong to rows where there is one for each; otherwise they stand behind the last row.
    """
    text = len(table.columns) if table.numbers_from is None else table.numbers_from
    details = [command for _, command in table.details]
    each: Sequence[Sequence[str]] = [()] * len(table.rows)
    if len(details) == len(table.rows):
        each = [(command,) for command in details]
    elif table.rows:
        each = [*each[:-1], details]
    return Sheet(
        name=name,
        title=table.title,
        columns=tuple(
            Head(head, kind=_kind(head, at < text)) for at, head in enumerate(table.columns)
        ),
        rows=tuple(
            Line(tuple(Cell(cell) for cell in row), commands=tuple(commands))
            for row, commands in zip(table.rows, each, strict=True)
        ),
        footnotes=tuple(table.notes),
    )


def _kind(head: str, is_text: bool) -> Kind:
    if head == "verdict":
        return "verdict"
    return "text" if is_text else "number"
