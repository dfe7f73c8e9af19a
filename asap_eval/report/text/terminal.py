"""A sheet on a terminal: in columns that fit its width."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from asap_eval.report.sheet import Sheet

FILE_WIDTH = 240
"""Characters in a line of a table that goes to a file or a pipe."""

TEXT_WIDTH = 32
"""Characters at which text beside numbers wraps."""

BETWEEN = 3
"""Characters that rich puts between two columns of this box."""


def rich_text(sheet: Sheet) -> str:
    """What a terminal shows, as plain text of a fixed width."""
    text = StringIO()
    print_rich(sheet, Console(file=text, width=FILE_WIDTH, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def print_rich(sheet: Sheet, console: Console) -> None:
    """The sheet on a console; text from records is never read as rich's own markup.

    Numbers do not wrap: a table wider than the console is printed in parts, each of which begins
    with the words to the left of the numbers.
    """
    console.print(escape(sheet.title), style="bold", highlight=False, soft_wrap=True)
    heads, rows = [head.full for head in sheet.columns], _rows(sheet)
    left = _left(sheet)
    widths = [_width(head, [row[at] for row in rows]) for at, head in enumerate(heads)]
    widths[:left] = [min(width, TEXT_WIDTH) for width in widths[:left]]
    for part in _parts(left, widths, console.width):
        view = RichTable(box=SIMPLE_HEAD)
        for at in part:
            head, number = escape(heads[at]), at >= left
            view.add_column(
                "\n".join(wrap(head, widths[at], break_long_words=False)) if number else head,
                justify="right" if number else "left",
                no_wrap=number,
                max_width=None if sheet.holds == "sentences" else widths[at],
                overflow="fold",
            )
        for row in rows:
            view.add_row(*(escape(row[at]) for at in part))
        console.print(view)
    for note in (sheet.caption, *sheet.notes()):
        if note:
            console.print(f"  {escape(note)}", highlight=False, soft_wrap=True)


def _rows(sheet: Sheet) -> list[list[str]]:
    """The text of all cells; the head of a section is a row of its own."""
    rows: list[list[str]] = []
    for section, lines in sheet.sections():
        if section:
            rows.append([f"[{section}]", *[""] * (len(sheet.columns) - 1)])
        rows += [[cell.text for cell in line.cells] for line in lines]
    return rows


def _left(sheet: Sheet) -> int:
    """Columns that name a row: those before the first of numbers."""
    kinds = [head.kind for head in sheet.columns]
    return kinds.index("number") if "number" in kinds else len(kinds)


def _width(head: str, cells: Sequence[str]) -> int:
    """Characters a column takes: its widest cell, or the longest word of its head."""
    return max(cell_len(text) for text in [*head.split(), *cells])


def _parts(left: int, widths: Sequence[int], console_width: int) -> list[list[int]]:
    """Columns of each part that fits the console."""
    words = list(range(left))
    parts = [words]
    for at in range(left, len(widths)):
        wider = [*parts[-1], at]
        taken = sum(widths[i] + BETWEEN for i in wider) + 1
        if taken > console_width and parts[-1] != words:
            parts.append([*words, at])
        else:
            parts[-1] = wider
    return parts
