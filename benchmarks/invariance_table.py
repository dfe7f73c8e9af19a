"""The tables of what a batch changes, as Markdown inside a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Cells = Mapping[str, Mapping[str, Any]]
"""By method: ``otherwise``, how many were reduced otherwise, and ``logit``, the greatest
difference."""


def table(columns: Mapping[str, Cells], settings: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a method of ``settings``, the unpruned model's as ``none``; one column a dtype."""
    lines = ["| method | " + " | ".join(columns) + " |", "| --- " * (1 + len(columns)) + "|"]
    for name, given in settings.items():
        label = ", ".join(f"{option}={value}" for option, value in given.items())
        label = "unpruned" if name == "none" else f"{name} {label}".strip()
        cells = [cells[name] for cells in columns.values()]
        shown = (f"{cell['otherwise']}; {cell['logit']:.2g}" for cell in cells)
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def put(page: Path, found: str, name: str) -> None:
    """The table between the marks of this name in a page."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, rest = page.read_text().split(begin)
    page.write_text(before + begin + found + end + rest.split(end)[1])
