"""Sheets as text: for a terminal, as Markdown, CSV or LaTeX."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from asap_eval.files.placed import placed
from asap_eval.report.sheet import Sheet
from asap_eval.report.text.csv import csv_text
from asap_eval.report.text.latex import latex
from asap_eval.report.text.markdown import markdown
from asap_eval.report.text.terminal import piped_text, print_rich, rich_text

FORMATS: dict[str, Callable[[Sheet], str]] = {
    "rich": rich_text,
    "markdown": markdown,
    "csv": csv_text,
    "latex": latex,
}
"""Writers by the name of their format."""

ENDINGS = {"rich": "txt", "markdown": "md", "csv": "csv", "latex": "tex"}
"""Of a file in each format."""


def as_text(sheets: Sequence[Sheet], form: str) -> str:
    """Sheets one below the other; the same sheets always give the same text."""
    return "\n".join(FORMATS[form](sheet) for sheet in sheets)


def show(sheets: Sequence[Sheet], form: str = "rich", *, wide: bool = False) -> None:
    """Sheets on standard output; ``rich`` on a terminal has its width and colours.

    Args:
        wide: all columns; otherwise ``rich`` shows those that matter. The other formats have all.
    """
    if form != "rich":
        sys.stdout.write(as_text(sheets, form))
        return
    if sys.stdout.isatty():
        for sheet in sheets:
            print_rich(sheet, Console(), wide=wide)
    else:
        sys.stdout.write("\n".join(piped_text(sheet, wide=wide) for sheet in sheets))
    if not wide and any(head.wide for sheet in sheets for head in sheet.columns):
        print("  wide=true shows every column and note.")


def save(text: str, path: Path) -> None:
    """Write a file: all of it or nothing; missing folders are made."""
    with placed(path) as part:
        part.write_text(text, encoding="utf-8")
