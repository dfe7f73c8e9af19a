"""``asap-eval report table=1 … 11 | alpha``, ``all``, ``audit``: the paper beside records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asap_eval.cli.words import command
from asap_eval.errors import AsapEvalError, BadValueError, UnknownNameError, unknown
from asap_eval.paper import TABLES, paper_table
from asap_eval.record import RunRecord
from asap_eval.report.paper.sheets import table_sheet
from asap_eval.report.readable import readable
from asap_eval.report.sheet import Sheet
from asap_eval.report.text import ENDINGS, FORMATS, as_text, save, show

ALL, AUDIT = "all", "audit"
"""Every table, and what of the paper does not recompute."""


@dataclass
class Asked:
    """Which tables, beside which records."""

    table: str  # 1 to 11 or alpha; all; audit: what of the paper does not recompute
    results: Path = Path("results")  # folder of records
    format: str = "rich"  # rich | markdown | latex | csv
    out: Path | None = None  # file to write instead of the terminal; with all, a folder
    model: str | None = None  # the rows of this model alone


def main(words: Sequence[str]) -> int:
    """Print or write; 2 where the command line is wrong, 1 where a file cannot be written."""
    about = "asap-eval report table=<n>: a table of the paper beside the records."
    return command(words, Asked, "report", about, _shown)


def _shown(asked: Asked) -> None:
    for key, known in (("table", (*TABLES, ALL, AUDIT)), ("format", FORMATS)):
        if (value := getattr(asked, key)) not in known:
            raise unknown("table of the paper" if key == "table" else key, value, known)
    try:
        _put(sheets_of(asked), asked)
    except OSError as error:
        raise AsapEvalError(f"{error.filename} cannot be written: {error.strerror}.") from error


def sheets_of(asked: Asked) -> list[Sheet]:
    """The sheets that a command line asks for.

    Raises:
        AsapEvalError: there is no folder of records, or an experiment file is wrong.
    """
    if asked.table == AUDIT:
        from asap_eval.audit import audit  # it builds models; the tables do not
        from asap_eval.report.paper.audit import audit_sheet

        return [audit_sheet(audit())]
    records = _records(asked.results)
    names = TABLES if asked.table == ALL else (asked.table,)
    return [table_sheet(paper_table(name), records, asked.model) for name in names]


def _records(folder: Path) -> list[RunRecord]:
    """All records below a folder; what cannot be read is reported and skipped."""
    if not folder.is_dir():
        raise UnknownNameError(f"No folder {folder}: give the folder that results went to.")
    found, problems = readable(folder)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    return [record for _, record in found]


def _put(sheets: Sequence[Sheet], asked: Asked) -> None:
    """On the terminal, into one file, or of several sheets into a folder: one file each."""
    form, out = asked.format, asked.out
    if out is None:
        show(sheets, form)
        return
    if asked.table != ALL:
        save(as_text(sheets, form), out)
        return
    if out.is_file():
        raise BadValueError(f"out={out} is a file; all tables go into a folder: give one.")
    for sheet in sheets:
        save(as_text([sheet], form), out / f"{sheet.name}.{ENDINGS[form]}")
