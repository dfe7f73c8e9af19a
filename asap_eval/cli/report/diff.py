"""``asap-report diff A B``: what moved from one folder of results to another.

Records are matched by their job, whatever version of the code ran it. Exit code 0: nothing moved
beyond noise; 1: something did, or a job done in A failed in B; 2: nothing could be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from asap_eval.errors import RecordError
from asap_eval.record import read_records
from asap_eval.report.diff.compare import compare, sheets
from asap_eval.report.diff.match import Kept
from asap_eval.report.text import as_text, save, show


def main(argv: Sequence[str]) -> int:
    """Print or write the comparison; the exit codes are those of the module's first lines."""
    args = _parser().parse_args(argv)
    try:
        a, b = _read(args.a), _read(args.b)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = compare(a, b)
    for problem in found.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    made = sheets(found, str(args.a), str(args.b))
    if args.out is not None:
        try:
            save(as_text(made, args.format), args.out)
        except OSError as error:
            print(f"{args.out} cannot be written: {error.strerror}.", file=sys.stderr)
            return 2
    else:
        show(made, args.format)
    if not found.pairs.both:
        print(
            f"error: {args.a} and {args.b} have no job in common: nothing to compare. Jobs match "
            "by model, method, options, images, weights and precision.",
            file=sys.stderr,
        )
        return 2
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "asap-report diff",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", type=Path, metavar="A", help="folder of records: before")
    parser.add_argument("b", type=Path, metavar="B", help="folder of records: after")
    parser.add_argument("--format", choices=("rich", "markdown"), default="rich")
    parser.add_argument("--out", type=Path, help="file to write instead of the terminal")
    return parser
