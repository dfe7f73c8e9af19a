"""``asap-eval report cases``: samples of a task whose answer a method fixed or broke.

``asap-eval cases`` draws what the method kept of their pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asap_eval.cli.words import Count, command
from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.record import read_records
from asap_eval.report.cases import Compared, compared
from asap_eval.report.text import as_text, save, show


@dataclass
class Choice:
    """Which cases are meant."""

    results: Path = Path("results")  # folder of records of bench=vlm, with their per-sample files
    task: str = "pope"  # of bench=vlm
    model: str | None = None  # records of this model alone
    method: str | None = None  # records of this method alone


@dataclass
class Listing(Choice):
    """The cases, and how they are listed."""

    most: Count = 20  # cases of each outcome, 0 = all
    format: Literal["rich", "markdown"] = "rich"  # rich | markdown
    out: Path | None = None  # file to write instead of the terminal


def main(words: Sequence[str]) -> int:
    """Print or write the tables; 2 where the call is wrong, 1 where nothing can be made."""
    return command(words, Listing, "report cases", str(__doc__), _listed)


def _listed(wanted: Listing) -> None:
    sheets = [one.sheet(wanted.most or None) for one in chosen_cases(wanted)]
    if wanted.out is None:
        show(sheets, wanted.format)
        return
    try:
        save(as_text(sheets, wanted.format), wanted.out)
    except OSError as error:
        raise AsapEvalError(f"{wanted.out} cannot be written: {error.strerror}.") from error


def chosen_cases(choice: Choice) -> list[Compared]:
    """The cases that are meant; what is no whole record is said and skipped.

    Raises:
        BadValueError: no such folder. RecordError: no such record, or its samples are missing.
    """
    folder, model, method = choice.results, choice.model, choice.method
    if not folder.is_dir():
        raise BadValueError(f"No folder {folder}: give the folder that results went to.")
    found, problems = read_records(folder)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    asked = [
        (path, record)
        for path, record in found
        if model in (None, record.job.model)
        # the unpruned records stay: the chosen ones are paired with them
        and (method in (None, record.job.method) or record.job.method == "none")
    ]
    return compared(asked, choice.task)
