"""``asap-report``: the records of a folder as tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from asap_eval.errors import RecordError
from asap_eval.record import RunRecord, read_records
from asap_eval.report.claims import claims, read_timing
from asap_eval.report.frame import frame
from asap_eval.report.render import Table, print_rich, save, to_markdown, to_rich
from asap_eval.report.table import overview


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write the tables; 2 where the folder is not there, 1 where nothing can be made."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.claims and args.format == "csv":
        parser.error("--claims has no csv form: use --format markdown")
    if args.clustering and not args.claims:
        parser.error("--clustering is for --claims")
    if not args.results.is_dir():
        print(f"No folder {args.results}: give the folder that results went to.", file=sys.stderr)
        return 2
    found, problems = read_records(args.results)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    records = [record for _, record in found]
    if not records:
        print(f"No record in {args.results}: run asap-eval first.", file=sys.stderr)
        return 1
    try:
        timing = [row for path in args.clustering for row in read_timing(path)]
    except RecordError as error:
        print(error, file=sys.stderr)
        return 1
    tables = claims(records, timing) if args.claims else overview(records)
    if args.format == "rich" and args.out is None and sys.stdout.isatty():
        for table in tables:
            print_rich(table, Console())
        return 0
    text = as_text(tables, args.format) if args.claims else render(records, args.format)
    if args.out is None:
        sys.stdout.write(text)
        return 0
    try:
        save(text, args.out)
    except OSError as error:
        print(f"{args.out} cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


def render(records: Sequence[RunRecord], form: str) -> str:
    """The overview in a format; the same records always give the same text.

    Args:
        records: at least one. form: ``rich``, ``markdown`` or ``csv`` (raw numbers, one table).
    """
    if form == "csv":
        return frame(records).to_csv(index=False, lineterminator="\n")
    return as_text(overview(records), form)


def as_text(tables: Sequence[Table], form: str) -> str:
    """Tables one below the other, ``rich`` or ``markdown``."""
    one = {"rich": to_rich, "markdown": to_markdown}[form]
    return "\n".join(one(table) for table in tables)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("asap-report", description=__doc__)
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path("results"), help="folder of records"
    )
    parser.add_argument("--format", choices=("rich", "markdown", "csv"), default="rich")
    parser.add_argument(
        "--claims",
        action="store_true",
        help="a verdict on each claim of the ASAP paper that these records decide",
    )
    parser.add_argument(
        "--clustering",
        type=Path,
        nargs="+",
        default=[],
        help="with --claims: files that benchmarks/clustering.py wrote",
    )
    parser.add_argument("--out", type=Path, help="file to write instead of the terminal")
    return parser


if __name__ == "__main__":
    sys.exit(main())
