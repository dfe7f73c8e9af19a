"""What tests read of a sheet."""

from __future__ import annotations

from asap_eval.report.sheet import Sheet


def heads(sheet: Sheet) -> list[str]:
    return [head.full for head in sheet.columns]


def texts(sheet: Sheet) -> list[list[str]]:
    """The text of every cell, row by row."""
    return [[cell.text for cell in line.cells] for line in sheet.rows]


def cells(sheet: Sheet, row: int) -> dict[str, str]:
    """The text of a row by its heads."""
    return dict(zip(heads(sheet), texts(sheet)[row], strict=True))
