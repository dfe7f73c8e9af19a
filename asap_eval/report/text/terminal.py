"""A sheet on a terminal: in columns that fit its width; words stay whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from io import StringIO
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from asap_eval.report.sheet import Sheet

FILE_WIDTH = 240
"""Characters in a line of a table that a report writes to a file."""

PIPE_WIDTH = 100
"""Characters in a line of a table that is redirected, where ``COLUMNS`` says nothing."""

TEXT_WIDTH = 32
"""Characters at which text beside numbers wraps."""

LEAST = 12
"""Characters that a shortened cell keeps."""

SHORT_HEAD = 8
"""Characters of a head that takes one line in a table of few columns."""

BETWEEN, EDGE = 3, 1
"""Characters that rich puts between two columns of this box, and at its edge beyond that."""

NARROW_BETWEEN = 2
"""The same where few columns have to stand in few characters."""

ELLIPSIS = "…"


def rich_text(sheet: Sheet) -> str:
    """What a terminal shows with all columns, as plain text of a fixed width."""
    return _plain(lambda console: print_rich(sheet, console), FILE_WIDTH)


def piped_text(sheet: Sheet, *, wide: bool) -> str:
    """What a terminal shows, as plain text as wide as ``COLUMNS`` says."""
    given = os.environ.get("COLUMNS", "")
    width = int(given) if given.isdecimal() and int(given) else PIPE_WIDTH
    return _plain(lambda console: print_rich(sheet, console, wide=wide), width)


def _plain(draw: Callable[[Console], None], width: int) -> str:
    text = StringIO()
    draw(Console(file=text, width=width, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def print_rich(sheet: Sheet, console: Console, *, wide: bool = True) -> None:
    """The sheet on a console; text from records is never read as rich's own markup.

    Numbers do not wrap: a table wider than the console is printed in parts, each of which begins
    with the words to the left of the numbers.

    Args:
        wide: all columns with everything in them; otherwise those that matter, in short.
    """
    sheet = sheet if wide else sheet.brief()
    between = BETWEEN if wide else NARROW_BETWEEN
    _print_words(sheet.title, console, style="bold")
    heads, rows, left = [head.full for head in sheet.columns], _rows(sheet), _left(sheet)
    cuts = [head.shortens and not wide for head in sheet.columns]
    widths = _widths(sheet, rows, console.width - EDGE, between, wide)
    for part in _parts(left, widths, console.width - EDGE, between):
        view = RichTable(box=SIMPLE_HEAD, padding=(0, 1) if wide else (0, 1, 0, 0))
        for at in part:
            head, number = escape(heads[at]), at >= left
            view.add_column(
                "\n".join(wrap(head, widths[at], break_long_words=False, break_on_hyphens=False)),
                justify="right" if number else "left",
                no_wrap=number,
                max_width=widths[at],
                overflow="fold",
            )
        for row in rows:
            view.add_row(*(escape(_fitted(row[at], widths[at], cuts[at])) for at in part))
        console.print(view)
    for note in (sheet.caption, *sheet.notes()):
        if note:
            _print_words(note, console, indent="  ")


def _widths(
    sheet: Sheet, rows: Sequence[Sequence[str]], room: int, between: int, wide: bool
) -> list[int]:
    """Characters of every column, such that words stay whole where there is room for them."""
    heads, left = [head.full for head in sheet.columns], _left(sheet)
    columns = [[row[at] for row in rows] for at in range(len(heads))]
    least = [_longest_word([head, *texts]) for head, texts in zip(heads, columns, strict=True)]
    widths = [_width(head, texts) for head, texts in zip(heads, columns, strict=True)]
    every = range(len(heads))
    if sheet.holds == "sentences":
        _shrink(widths, least, every, room, between)
        _shrink(widths, [1] * len(widths), every, room, between)
        return widths
    if wide:
        for at in range(left):
            widths[at] = min(widths[at], max(TEXT_WIDTH, least[at]))
        return widths
    for at, head in enumerate(heads):
        if cell_len(head) <= SHORT_HEAD:
            widths[at] = max(widths[at], cell_len(head))
    shorter = [at for at in every if sheet.columns[at].shortens]
    _shrink(widths, [max(LEAST, _longest_word([head])) for head in heads], shorter, room, between)
    _shrink(widths, least, [at for at in range(left) if at not in shorter], room, between)
    return widths


def _print_words(text: str, console: Console, *, indent: str = "", style: str = "") -> None:
    """A text in lines that break between words; a word longer than a line stays whole."""
    lines = wrap(
        text,
        console.width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        console.print(escape(line), style=style, highlight=False, soft_wrap=True)


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


def _longest_word(texts: Sequence[str]) -> int:
    return max((cell_len(word) for text in texts for word in text.split()), default=0)


def _shrink(
    widths: list[int], least: Sequence[int], places: Sequence[int], room: int, between: int
) -> None:
    """Take from the widest columns at some places until all columns have room, or none can give."""
    while sum(widths) + between * len(widths) > room:
        able = [at for at in places if widths[at] > least[at]]
        if not able:
            return
        widths[max(able, key=lambda at: widths[at])] -= 1


def _fitted(text: str, width: int, cut: bool) -> str:
    """A cell's text, shortened where its column may be."""
    if not cut or cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1).rstrip()}{ELLIPSIS}"


def _parts(left: int, widths: Sequence[int], room: int, between: int) -> list[list[int]]:
    """Columns of each part that has room."""
    words = list(range(left))
    parts = [words]
    for at in range(left, len(widths)):
        wider = [*parts[-1], at]
        taken = sum(widths[i] + between for i in wider)
        if taken > room and parts[-1] != words:
            parts.append([*words, at])
        else:
            parts[-1] = wider
    return parts
