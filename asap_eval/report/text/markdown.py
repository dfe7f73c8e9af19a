"""Sheets as text: terminal, Markdown, CSV and LaTeX, each with its own escaping."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from io import StringIO

from asap_eval.report.sheet import Cell, Line, Sheet
from asap_eval.report.text.terminal import DASH, Table, code, to_rich


def table_of(sheet: Sheet) -> Table:
    """The sheet as a table of strings, for the terminal: numbers to the right of the words."""
    words = [at for at, head in enumerate(sheet.columns) if head.kind != "number"]
    numbers = [at for at, head in enumerate(sheet.columns) if head.kind == "number"]
    order = [*words, *numbers]
    columns = [sheet.columns[at].full for at in order]
    rows: list[list[str]] = []
    for section, lines in sections(sheet):
        if section:
            rows.append([f"[{section}]", *[""] * (len(columns) - 1)])
        rows += [[line.cells[at].text for at in order] for line in lines]
    notes = [note for note in (sheet.caption, *sheet.footnotes) if note]
    return Table(
        title=sheet.title,
        columns=columns,
        rows=rows,
        notes=[*notes, *(f"{where}: {note}" for where, note in cell_notes(sheet))],
        numbers_from=len(words),
    )


def sections(sheet: Sheet) -> Iterator[tuple[str, list[Line]]]:
    """Rows by the section they stand in, in order; one that comes again is a new block."""
    block: list[Line] = []
    for line in sheet.rows:
        if block and block[-1].section != line.section:
            yield block[-1].section, block
            block = []
        block.append(line)
    if block:
        yield block[-1].section, block


def cell_notes(sheet: Sheet) -> Iterator[tuple[str, str]]:
    """Row and column of every cell with a note of its own, and the note."""
    for line in sheet.rows:
        for head, cell in zip(sheet.columns, line.cells, strict=True):
            if cell.note:
                yield f"{name_of(line)}, {head.full}", cell.note


def name_of(line: Line) -> str:
    """What tells a row from others in a list: its first words."""
    return next((cell.text for cell in line.cells if cell.text != DASH), DASH)


def rich_text(sheet: Sheet) -> str:
    """What a terminal shows, as plain text of a fixed width."""
    return to_rich(table_of(sheet))


def markdown(sheet: Sheet) -> str:
    """A GitHub table: a row for the head of each section, commands in a list that opens."""
    count = len(sheet.columns)
    lines = [f"### {_md(sheet.title)}", ""]
    lines += [_md(sheet.caption), ""] if sheet.caption else []
    lines.append(_md_row([_md(head.full) for head in sheet.columns]))
    lines.append(_md_row(["---:" if h.kind == "number" else "---" for h in sheet.columns]))
    for section, rows in sections(sheet):
        if section:
            lines.append(_md_row([f"**{_md(section)}**", *[""] * (count - 1)]))
        lines += [_md_row([_md(cell.text) for cell in row.cells]) for row in rows]
    notes = [*sheet.footnotes, *(f"{where}: {note}" for where, note in cell_notes(sheet))]
    lines += ["", *[f"* {_md_note(note)}" for note in notes]] if notes else []
    commands = [(name_of(row), command) for row in sheet.rows for command in row.commands]
    commands += [("this table", sheet.command)] if sheet.command else []
    if commands:
        lines += ["", "<details><summary>Commands</summary>", ""]
        lines += [f"* {_md_note(name)}: {code(command)}" for name, command in commands]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _md(text: str) -> str:
    """Words that Markdown takes for words: nothing breaks a cell, a line or becomes HTML."""
    safe = re.sub(r"([\\`*\[\]|~])", r"\\\1", " ".join(text.split()))
    safe = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", safe)
    return safe.replace("&", "&amp;").replace("<", "&lt;")


def _md_note(text: str) -> str:
    """The same at the start of a line, where a sign would begin a list or a head."""
    return re.sub(r"^([+\-#>]|\d+(?=\.))", r"\\\1", _md(text))


def csv_text(sheet: Sheet) -> str:
    """One line of heads; numbers as they are, unrounded; an empty cell where nothing stands.

    The first columns name the sheet and the section, the last ones hold notes of single cells and
    the commands, one below the other in the cell.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [head.full for head in sheet.columns]
    writer.writerow(["table", "section", *heads, "notes", "commands"])
    for line in sheet.rows:
        notes = [
            f"{head}: {cell.note}"
            for head, cell in zip(heads, line.cells, strict=True)
            if cell.note
        ]
        cells = [_csv_value(cell) for cell in line.cells]
        joined = ("\n".join(part) for part in (notes, line.commands))
        writer.writerow([sheet.name, line.section, *cells, *joined])
    return text.getvalue()


def _csv_value(cell: Cell) -> str:
    if cell.value is not None:
        return repr(cell.value)
    return "" if cell.text == DASH else cell.text


LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "—": "---",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "Δ": r"$\Delta$",
    "†": r"\dag{}",
    "▼": r"$\triangledown$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "…": r"\ldots{}",
}
"""Signs that LaTeX reads otherwise, or does not have in its text fonts."""


def latex(sheet: Sheet) -> str:
    """A ``table*`` with booktabs rules; it needs the packages booktabs, textcomp and amssymb."""
    count = len(sheet.columns)
    shape = "".join("r" if head.kind == "number" else "l" for head in sheet.columns)
    title = ". ".join(part for part in (sheet.title, sheet.caption) if part)
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_tex(title)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', sheet.name)}}}",
        rf"\begin{{tabular}}{{{shape}}}",
        r"\toprule",
        *_tex_heads(sheet),
        r"\midrule",
    ]
    for at, (section, rows) in enumerate(sections(sheet)):
        if section:
            lines += [r"\midrule"] * (at > 0)
            lines.append(rf"\multicolumn{{{count}}}{{l}}{{\emph{{{_tex(section)}}}}} \\")
        lines += [_tex_row([_tex(cell.text) for cell in row.cells]) for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [*sheet.footnotes, *(f"{where}: {note}" for where, note in cell_notes(sheet))]
    lines += [rf"\par\smallskip{{\footnotesize {_tex(note)}\par}}" for note in notes]
    lines.append(r"\end{table*}")
    lines += [f"% {' '.join(command.split())}" for row in sheet.rows for command in row.commands]
    lines += [f"% {sheet.command}"] if sheet.command else []
    return "\n".join(lines) + "\n"


def _tex_heads(sheet: Sheet) -> list[str]:
    """One line of heads, and one of groups above it where there are any."""
    heads = [_tex_row([_tex(head.text) for head in sheet.columns])]
    groups: list[tuple[str, int, int]] = []
    for at, head in enumerate(sheet.columns):
        if groups and head.group and groups[-1][0] == head.group:
            groups[-1] = (head.group, groups[-1][1], at)
        else:
            groups.append((head.group, at, at))
    if not any(group for group, _, _ in groups):
        return heads
    over = [
        rf"\multicolumn{{{last - first + 1}}}{{c}}{{{_tex(group)}}}" if group else ""
        for group, first, last in groups
    ]
    rules = [rf"\cmidrule(lr){{{a + 1}-{b + 1}}}" for group, a, b in groups if group]
    return [_tex_row(over), " ".join(rules), *heads]


def _tex_row(cells: Sequence[str]) -> str:
    """A cell that begins with ``[`` would be read as an argument of the line break before it."""
    safe = [f"{{{cell}}}" if cell.startswith("[") else cell for cell in cells]
    return " & ".join(safe) + r" \\"


def _tex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))


FORMATS: dict[str, Callable[[Sheet], str]] = {
    "rich": rich_text,
    "markdown": markdown,
    "csv": csv_text,
    "latex": latex,
}
"""Renderers by the name of their format."""

ENDINGS = {"rich": "txt", "markdown": "md", "csv": "csv", "latex": "tex"}
"""Of a file in each format."""


def as_text(sheets: Sequence[Sheet], form: str) -> str:
    """Sheets one below the other; the same sheets always give the same text."""
    return "\n".join(FORMATS[form](sheet) for sheet in sheets)
