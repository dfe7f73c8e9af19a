"""A sheet as CSV: numbers as they are, unrounded."""

from __future__ import annotations

import csv
from io import StringIO

from asap_eval.report.sheet import DASH, Cell, Sheet


def csv_text(sheet: Sheet) -> str:
    """One line of heads; an empty cell where nothing stands.

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
        joined = ("\n".join(part) for part in (notes, line.commands))
        writer.writerow([sheet.name, line.section, *map(_value, line.cells), *joined])
    return text.getvalue()


def _value(cell: Cell) -> str:
    if cell.value is not None:
        return repr(cell.value)
    return "" if cell.text == DASH else cell.text
