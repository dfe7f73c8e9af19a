"""A sheet as a table of GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from asap_eval.report.sheet import Sheet


def markdown(sheet: Sheet) -> str:
    """A row for the head of each section; commands in a list that opens on a click."""
    free = sheet.holds != "figures"
    heads = [_escaped(head.full, free) for head in sheet.columns]
    ends = ["---:" if head.kind == "number" and not free else "---" for head in sheet.columns]
    lines = [f"### {_escaped(sheet.title, free)}", ""] if sheet.title else []
    lines += [_escaped(sheet.caption, free), ""] if sheet.caption else []
    lines += [_row(heads), _row(ends)]
    for section, rows in sheet.sections():
        if section:
            lines.append(_row([f"**{_escaped(section, free)}**", *[""] * (len(heads) - 1)]))
        lines += [_row([_escaped(cell.text, free) for cell in row.cells]) for row in rows]
    below = [f"* {_note(note, free)}" for note in sheet.notes()]
    lines += ["", *below] if below else []
    commands = [(row.label, command) for row in sheet.rows for command in row.commands]
    commands += sheet.commands
    if commands:
        lines += ["", "<details><summary>Commands</summary>", ""]
        lines += [f"* {_note(name, free)}: {_code(command)}" for name, command in commands]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str, free: bool) -> str:
    """Text that breaks no cell and no line, and becomes no HTML.

    Args:
        free: text may hold Markdown of its own, which then stays.
    """
    safe = " ".join(text.split())
    if free:
        safe = safe.replace("\\|", "\\\\|").replace("|", "\\|")
    else:
        safe = re.sub(r"([\\`*\[\]|~])", r"\\\1", safe)
        safe = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", safe)
    return safe.replace("&", "&amp;").replace("<", "&lt;")


def _note(text: str, free: bool) -> str:
    """The same at the start of a line, where a sign would begin a list or a head."""
    safe = _escaped(text, free)
    return safe if free else re.sub(r"^([+\-#>]|\d+(?=\.))", r"\\\1", safe)


def _code(text: str) -> str:
    """Text as code, fenced by more backticks than it holds in a row."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    inner = " ".join(text.split())
    return f"{fence} {inner} {fence}" if len(fence) > 1 else f"`{inner}`"
