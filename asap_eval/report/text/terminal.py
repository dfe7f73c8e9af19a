"""One table as text, on a terminal or in Markdown; what its strings mean is decided elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

DASH = "—"
"""A cell nobody measured."""

FILE_WIDTH = 240
"""Characters in a line of a rich table that goes to a file or a pipe."""

TEXT_WIDTH = 32
"""Characters at which text beside numbers wraps."""

BETWEEN = 3
"""Characters that rich puts between two columns of this box."""


@dataclass(frozen=True)
class Table:
    """Cells ready to print.

    Attributes:
        title: one line above the table.
        columns: heads, each with its unit.
        rows: cells, as many in each row as there are columns.
        notes: lines below the table.
        details: longer lines, for the formats that have room (the command behind each row).
        numbers_from: column from which cells are numbers, set to the right; None = all are text.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    details: Sequence[tuple[str, str]] = ()
    numbers_from: int | None = None

    def without_empty_columns(self) -> Table:
        """The same table less the columns in which every cell is a dash."""
        used = [i for i in range(len(self.columns)) if any(row[i] != DASH for row in self.rows)]
        columns = [self.columns[i] for i in used]
        rows = [[row[i] for i in used] for row in self.rows]
        numbers = None if self.numbers_from is None else sum(i < self.numbers_from for i in used)
        return replace(self, columns=columns, rows=rows, numbers_from=numbers)


def to_markdown(table: Table) -> str:
    """A GitHub Markdown table; details become a list that opens on a click."""
    lines = [f"### {_cell(table.title)}", ""] if table.title else []
    lines.append(_line(table.columns))
    lines.append(_line(["---"] * len(table.columns)))
    lines += [_line(row) for row in table.rows]
    lines += ["", *[f"* {_cell(note)}" for note in table.notes]] if table.notes else []
    if table.details:
        lines += ["", "<details><summary>Commands</summary>", ""]
        lines += [f"* {_cell(name)}: {code(text)}" for name, text in table.details]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Text that cannot break out of its cell or become HTML."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;")
    safe = safe.replace("\\|", "\\\\|").replace("|", "\\|")
    return " ".join(safe.split())


def code(text: str) -> str:
    """Text as code, fenced by more backticks than it holds in a row."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    inner = " ".join(text.split())
    return f"{fence} {inner} {fence}" if len(fence) > 1 else f"`{inner}`"


def print_rich(table: Table, console: Console) -> None:
    """The table on a console; text from records is never read as rich's own markup.

    Numbers do not wrap: a table wider than the console is printed in parts, each of which begins
    with the text columns.
    """
    console.print(escape(table.title), style="bold", highlight=False, soft_wrap=True)
    widths = [_width(table, index) for index in range(len(table.columns))]
    for part in _parts(table, widths, console.width):
        view = RichTable(box=SIMPLE_HEAD)
        for index in part:
            head, number = escape(table.columns[index]), _is_number(table, index)
            view.add_column(
                "\n".join(wrap(head, widths[index], break_long_words=False)) if number else head,
                justify="right" if number else "left",
                no_wrap=number,
                max_width=None if table.numbers_from is None else widths[index],
                overflow="fold",
            )
        for row in table.rows:
            view.add_row(*(escape(row[index]) for index in part))
        console.print(view)
    for note in table.notes:
        console.print(f"  {escape(note)}", highlight=False, soft_wrap=True)


def _is_number(table: Table, index: int) -> bool:
    return table.numbers_from is not None and index >= table.numbers_from


def _width(table: Table, index: int) -> int:
    """Characters a column takes: its widest cell, or the longest word of its head."""
    words = table.columns[index].split()
    widest = max(cell_len(text) for text in [*words, *(row[index] for row in table.rows)])
    return widest if _is_number(table, index) else min(widest, TEXT_WIDTH)


def _parts(table: Table, widths: Sequence[int], console_width: int) -> list[list[int]]:
    """Columns of each part that fits the console; all in one where there is only text."""
    if table.numbers_from is None:
        return [list(range(len(widths)))]
    text = list(range(table.numbers_from))
    parts = [text]
    for index in range(table.numbers_from, len(widths)):
        wider = [*parts[-1], index]
        taken = sum(widths[i] + BETWEEN for i in wider) + 1
        if taken > console_width and parts[-1] != text:
            parts.append([*text, index])
        else:
            parts[-1] = wider
    return parts


def to_rich(table: Table) -> str:
    """What `print_rich` shows, as plain text of a fixed width."""
    text = StringIO()
    print_rich(table, Console(file=text, width=FILE_WIDTH, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def save(text: str, path: Path) -> None:
    """Write a file: all of it or nothing; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
