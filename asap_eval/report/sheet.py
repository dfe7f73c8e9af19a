"""A table as data: what every format (terminal, Markdown, CSV, LaTeX, HTML) is given.

Cells hold the text a reader sees, ready in its rounding, and the value behind it, unrounded. A
format escapes and lays out; it decides nothing about meaning and changes no text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

DASH = "—"
"""A cell nobody measured."""

Kind = Literal["text", "number", "verdict"]
"""Of a column: words (to the left), numbers (to the right, ordered by value), a verdict."""

Holds = Literal["figures", "composed", "sentences"]
"""What the cells of a sheet hold: a figure each, with its value behind it; figures put together for
a reader (``-2.2 [-5.0, +0.2]``), beside which words stay narrow; or words alone, with all the room
a terminal has. Text that is composed or a sentence may hold Markdown of its own (code, a link)."""


THIS = "this table"
"""Name of the command that makes a sheet itself."""


@dataclass(frozen=True)
class Head:
    """The head of a column.

    Attributes:
        name: what stands in it, without the unit. unit: such as ``%``; empty = none.
        kind: of its cells. group: a head over neighbouring columns of the same group; empty = none.
        wide: only for a table that has all columns. brief: what stands in it elsewhere on a
            terminal; empty = the same. shortens: there its cells may end in an ellipsis.
    """

    name: str
    unit: str = ""
    kind: Kind = "number"
    group: str = ""
    wide: bool = False
    brief: str = ""
    shortens: bool = False

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
        brief: what a table of few columns shows; empty = the same.
    """

    text: str = DASH
    value: float | None = None
    note: str = ""
    brief: str = ""


EMPTY = Cell()
"""A cell that nobody published or measured."""


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        cells: as many as there are columns. section: the block of rows it stands in (a model, a
            number of tokens); empty = none. commands: what made it, one for each record.
        name: what tells it from the others in a list; empty = its first words.
    """

    cells: tuple[Cell, ...]
    section: str = ""
    commands: tuple[str, ...] = ()
    name: str = ""

    @property
    def label(self) -> str:
        """Its name, or the first words that stand in it."""
        words = (cell.text for cell in self.cells if cell.text != DASH)
        return self.name or next(words, DASH)


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes:
        title: one line above it. columns: heads. rows: in their order.
        footnotes: lines below it. caption: what it asks, or is about; may be empty.
        commands: names and commands of what is behind the table as a whole.
        name: short and unique in its report, for anchors and labels (``table1-deit_tiny``).
        short_notes: the footnotes of a table of few columns; None = the same.
    """

    title: str
    columns: tuple[Head, ...]
    rows: tuple[Line, ...]
    footnotes: tuple[str, ...] = ()
    caption: str = ""
    commands: tuple[tuple[str, str], ...] = ()
    name: str = ""
    holds: Holds = "figures"
    short_notes: tuple[str, ...] | None = None

    def sections(self) -> Iterator[tuple[str, list[Line]]]:
        """Rows by the section they stand in, in order; one that comes again is a new block."""
        for section, lines in groupby(self.rows, key=lambda line: line.section):
            yield section, list(lines)

    def notes(self) -> list[str]:
        """Footnotes, then the notes of single cells, each with its row and column."""
        own = [
            f"{line.label}, {head.full}: {cell.note}"
            for line in self.rows
            for head, cell in zip(self.columns, line.cells, strict=True)
            if cell.note
        ]
        return [*self.footnotes, *own]

    def noted(self, *below: str, above: Sequence[str] = ()) -> Sheet:
        """The same sheet with further footnotes."""
        short = None if self.short_notes is None else (*above, *self.short_notes, *below)
        return replace(self, footnotes=(*above, *self.footnotes, *below), short_notes=short)

    def brief(self) -> Sheet:
        """The same sheet for a terminal: fewer columns, shorter heads, cells and notes."""
        fewer = self.only({at for at, head in enumerate(self.columns) if not head.wide})
        return replace(
            fewer,
            columns=tuple(
                replace(head, name=head.brief or head.name, brief="") for head in fewer.columns
            ),
            rows=tuple(
                replace(
                    line,
                    cells=tuple(replace(c, text=c.brief or c.text, brief="") for c in line.cells),
                )
                for line in fewer.rows
            ),
            footnotes=self.footnotes if self.short_notes is None else self.short_notes,
            short_notes=None,
        ).without_empty_columns()

    def without_empty_columns(self) -> Sheet:
        """The same sheet less the columns in which every cell is a dash."""
        return self.only(
            {
                at
                for line in self.rows
                for at, cell in enumerate(line.cells)
                if cell.text != DASH or cell.note
            }
        )

    def only(self, places: Collection[int]) -> Sheet:
        """The same sheet with the columns at some places, in their order."""
        used = sorted(places)
        return replace(
            self,
            columns=tuple(self.columns[at] for at in used),
            rows=tuple(
                replace(line, cells=tuple(line.cells[at] for at in used)) for line in self.rows
            ),
        )


def sheet_of_text(
    title: str,
    words: Sequence[str | Head],
    rows: Iterable[Sequence[str | Cell]],
    *,
    numbers: Sequence[str | Head] = (),
    notes: Iterable[str] = (),
    commands: Iterable[tuple[str, str]] = (),
) -> Sheet:
    """A sheet of ready text.

    Args:
        words, numbers: heads of the columns in their order, or what stands in them; one named
            ``verdict`` is of verdicts.
        rows: their cells, or the text of them. notes, commands: of the sheet.
    """
    kinds: dict[str, Kind] = {"verdict": "verdict"}
    return Sheet(
        title=title,
        columns=(
            *(h if isinstance(h, Head) else Head(h, kind=kinds.get(h, "text")) for h in words),
            *(h if isinstance(h, Head) else Head(h) for h in numbers),
        ),
        rows=tuple(Line(tuple(c if isinstance(c, Cell) else Cell(c) for c in row)) for row in rows),
        footnotes=tuple(notes),
        commands=tuple(commands),
        holds="composed" if numbers else "sentences",
    )
