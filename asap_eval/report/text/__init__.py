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
from asap_eval.report.text.terminal import print_rich, rich_text

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


def show(sheets: Sequence[Sheet], form: str = "rich") -> None:
    """Sheets on standard output; ``rich`` on a terminal has its width and colours."""
    if form == "rich" and sys.stdout.isatty():
        for sheet in sheets:
            print_rich(sheet, Console())
    else:
        sys.stdout.write(as_text(sheets, form))


def save(text: str, path: Path) -> None:
    """Write a file: all of it or nothing; missing folders are made."""
    with placed(path) as part:
        part.write_text(text, encoding="utf-8")
