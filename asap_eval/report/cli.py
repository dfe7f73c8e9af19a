"""``asap-report``: the records of a folder as tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from asap_eval.record import RunRecord, read_records
from asap_eval.report.frame import frame
from asap_eval.report.render import print_rich, save, to_markdown, to_rich
from asap_eval.report.table import overview


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write the tables; 2 where the folder is not there, 1 where nothing can be made."""
    args = _parser().parse_args(argv)
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
    if args.format == "rich" and args.out is None and sys.stdout.isatty():
        for table in overview(records):
            print_rich(table, Console())
        return 0
    text = render(records, args.format)
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
    as_text = {"rich": to_rich, "markdown": to_markdown}[form]
    return "\n".join(as_text(table) for table in overview(records))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("asap-report", description=__doc__)
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path("results"), help="folder of records"
    )
    parser.add_argument("--format", choices=("rich", "markdown", "csv"), default="rich")
    parser.add_argument("--out", type=Path, help="file to write instead of the terminal")
    return parser


if __name__ == "__main__":
    sys.exit(main())
