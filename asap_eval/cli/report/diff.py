"""``asap-eval report diff before after``: what moved from one folder of results to another.

Records are matched by their job, whatever version of the code ran it. Exit code 0: nothing moved
beyond noise; 1: something did, or a job done before failed after; 2: nothing could be compared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asap_eval.cli.guard import USAGE
from asap_eval.cli.words import command
from asap_eval.errors import RecordError
from asap_eval.record import read_records
from asap_eval.report.diff.compare import compare, sheets
from asap_eval.report.diff.match import Kept
from asap_eval.report.text import as_text, save, show


@dataclass
class Asked:
    """Two folders, and how what moved is shown."""

    before: Path  # folder of records: before
    after: Path  # folder of records: after
    format: Literal["rich", "markdown"] = "rich"  # rich | markdown
    out: Path | None = None  # file to write instead of the terminal


def main(argv: Sequence[str]) -> int:
    """Print or write the comparison; the exit codes are those of the module's first lines."""
    return command(argv, Asked, "report diff", str(__doc__), _compared, places=["before", "after"])


def _compared(asked: Asked) -> int:
    try:
        a, b = _read(asked.before), _read(asked.after)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    found = compare(a, b)
    for problem in found.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    made = sheets(found, str(asked.before), str(asked.after))
    if asked.out is not None:
        try:
            save(as_text(made, asked.format), asked.out)
        except OSError as error:
            print(f"{asked.out} cannot be written: {error.strerror}.", file=sys.stderr)
            return USAGE
    else:
        show(made, asked.format)
    if not found.pairs.both:
        print(
            f"error: {asked.before} and {asked.after} have no job in common: nothing to compare. "
            "Jobs match by model, method, options, images, weights and precision.",
            file=sys.stderr,
        )
        return USAGE
    return int(found.worse)


def _read(folder: Path) -> list[Kept]:
    if not folder.is_dir():
        raise RecordError(f"No folder {folder}: give two folders that results went to.")
    found, problems = read_records(folder)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    if not found:
        raise RecordError(f"No record in {folder}: run asap-eval with results={folder} first.")
    return found
