"""``asap-report table=1 … 11 | alpha``, ``all`` and ``audit``: the paper, and records beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from asap_eval.errors import AsapEvalError, BadValueError, UnknownNameError, unknown
from asap_eval.paper import TABLES, paper_table
from asap_eval.record import RunRecord
from asap_eval.report.paper.sheets import table_sheet
from asap_eval.report.readable import readable
from asap_eval.report.sheet import Sheet
from asap_eval.report.text import ENDINGS, FORMATS, as_text, save, show

VERBS = ("all", "audit")
"""First words that ask for every table, or for what of the paper does not recompute."""
KEYS = ("table", "results", "format", "out", "model")

ALL = "all"


def main(words: Sequence[str]) -> int:
    """Print or write; 2 where the command line is wrong, 1 where a file cannot be written."""
    try:
        given = parsed(words)
        sheets = sheets_of(given)
        _put(sheets, given)
    except AsapEvalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename} cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


def parsed(words: Sequence[str]) -> dict[str, str]:
    """The settings of a command line: ``table`` is a name, ``all`` or ``audit``.

    Raises:
        AsapEvalError: a word that is no setting, an unknown key or value.
    """
    given: dict[str, str] = {}
    for at, word in enumerate(words):
        key, sign, value = word.partition("=")
        if at == 0 and word in VERBS:
            key, sign, value = "table", "=", word
        if not sign or not value:
            raise BadValueError(
                f"'{word}' is no key=value: give {', '.join(f'{k}=' for k in KEYS)} after "
                "all, audit or table=."
            )
        if key not in KEYS:
            raise unknown("key of asap-report", key, KEYS)
        if key in given:
            raise BadValueError(f"{key} is given twice: {given[key]} and {value}.")
        given[key] = value
    if "table" not in given:
        raise BadValueError(f"Which table? Give table={'|'.join(TABLES)}, all or audit.")
    if given["table"] not in (*TABLES, *VERBS):
        raise unknown("table of the paper", given["table"], (*TABLES, *VERBS))
    if (form := given.setdefault("format", "rich")) not in FORMATS:
        raise unknown("format", form, FORMATS)
    return given


def sheets_of(given: Mapping[str, str]) -> list[Sheet]:
    """The sheets that a command line asks for.

    Raises:
        AsapEvalError: there is no folder of records, or an experiment file is wrong.
    """
    if given["table"] == "audit":
        from asap_eval.audit import audit  # it builds models; the tables do not
        from asap_eval.report.paper.audit import audit_sheet

        return [audit_sheet(audit())]
    records = _records(Path(given.get("results", "results")))
    model = given.get("model")
    names = TABLES if given["table"] == ALL else (given["table"],)
    return [table_sheet(paper_table(name), records, model) for name in names]


def _records(folder: Path) -> list[RunRecord]:
    """All records below a folder; what cannot be read is reported and skipped."""
    if not folder.is_dir():
        raise UnknownNameError(f"No folder {folder}: give the folder that results went to.")
    found, problems = readable(folder)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    return [record for _, record in found]


def _put(sheets: Sequence[Sheet], given: Mapping[str, str]) -> None:
    """On the terminal, into one file, or of several sheets into a folder: one file each."""
    form, out = given["format"], given.get("out")
    if out is None:
        show(sheets, form)
        return
    if given["table"] != ALL:
        save(as_text(sheets, form), Path(out))
        return
    if Path(out).is_file():
        raise BadValueError(f"out={out} is a file; all tables go into a folder: give one.")
    for sheet in sheets:
        save(as_text([sheet], form), Path(out) / f"{sheet.name}.{ENDINGS[form]}")
