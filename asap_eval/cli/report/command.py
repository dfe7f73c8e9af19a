"""``asap-report``: the records of a folder as tables, and the door to all other reports."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from asap_eval.errors import AsapEvalError, RecordError
from asap_eval.experiment import Experiment, load
from asap_eval.record import RunRecord
from asap_eval.report.experiment.match import matched
from asap_eval.report.experiment.tables import experiment_frame, experiment_tables
from asap_eval.report.frame import frame
from asap_eval.report.layouts.overview import overview
from asap_eval.report.paper.claims import claims, read_timing
from asap_eval.report.readable import readable
from asap_eval.report.sheet import Sheet
from asap_eval.report.text import as_text, save, show

COMMANDS = {
    "cases": "asap_eval.cli.report.cases",
    "diff": "asap_eval.cli.report.diff",
    "html": "asap_eval.cli.report.page",
    "pictures": "asap_eval.cli.report.pictures",
}
"""First words that are another command, and the module that runs it: ``main(argv)``. Loaded when
asked for; a folder of one of these names is given as ``./diff``."""
PAPER = "asap_eval.cli.report.paper"
"""What runs ``all``, ``audit`` and ``table=``."""


OTHERS = """\
other reports (each with results=<folder>, and out=<file or folder>):
  asap-report html                 everything as one page in one file
  asap-report pictures             pictures as PNG and SVG
  asap-report table=1              the paper's Table 1 beside the records (1 to 11, alpha; all)
  asap-report audit                what of the paper does not recompute, or contradicts itself
  asap-report cases task=pope      questions whose answer a method fixed or broke
  asap-report diff before after    what moved between two folders of records

examples:
  asap-report results --experiment table1 --model deit_tiny
  asap-report results --format markdown --out tables.md
  asap-report table=1 results=results format=latex out=table1.tex"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write the tables; 2 where the folder is not there, 1 where nothing can be made."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given and given[0] in COMMANDS:
        return int(importlib.import_module(COMMANDS[given[0]]).main(given[1:]))
    if asks_for_paper(given):
        return int(importlib.import_module(PAPER).main(given))
    parser = _parser()
    args = parser.parse_args(given)
    if args.claims and args.format == "csv":
        parser.error("--claims has no csv form: use --format markdown")
    if args.claims and args.experiment:
        parser.error("--claims and --experiment are two reports: ask for one of them")
    if args.clustering and not args.claims:
        parser.error("--clustering is for --claims")
    if not args.results.is_dir():
        print(f"No folder {args.results}: give the folder that results went to.", file=sys.stderr)
        return 2
    found, problems = readable(args.results)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    records = [record for _, record in found if args.model in (None, record.job.model)]
    if not records:
        of = f" of model {args.model}" if args.model else ""
        print(f"No record{of} in {args.results}: run asap-eval first.", file=sys.stderr)
        return 1
    try:
        experiment = load(args.experiment) if args.experiment else None
        if experiment is not None and args.model:
            experiment = experiment.on(args.model)
        timing = [row for path in args.clustering for row in read_timing(path)]
    except AsapEvalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RecordError) else 2
    own = claims(records, timing) if args.claims else []
    if args.format == "rich" and args.out is None:
        show(own or sheets_of(records, experiment))
        return 0
    form = args.format
    text = as_text(own, form) if own else render(records, form, experiment)
    if args.out is None:
        sys.stdout.write(text)
        return 0
    try:
        save(text, args.out)
    except OSError as error:
        print(f"{args.out} cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


def asks_for_paper(words: Sequence[str]) -> bool:
    """Whether a command line begins with a verb of the paper's, or has ``key=value``.

    A folder of such a name is given as ``./all``; one with a sign of equality is a folder.
    """
    settings = (w for w in words if w.partition("=")[0].isidentifier() and "=" in w)
    return words[:1] in (["all"], ["audit"]) or any(not Path(w).exists() for w in settings)


def sheets_of(records: Sequence[RunRecord], experiment: Experiment | None) -> list[Sheet]:
    """The overview of all records, or an experiment's own tables of those that are its rows."""
    if experiment is None:
        return overview(records)
    return experiment_tables(experiment, matched(experiment, records), records)


def render(records: Sequence[RunRecord], form: str, experiment: Experiment | None = None) -> str:
    """The tables in a format; the same records always give the same text.

    Args:
        records: at least one. form: ``rich``, ``markdown`` or ``csv`` (raw numbers, one table).
    """
    if form != "csv":
        return as_text(sheets_of(records, experiment), form)
    if experiment is None:
        rows = frame(records)
    else:
        rows = experiment_frame(experiment, matched(experiment, records), records)
    return rows.to_csv(index=False, lineterminator="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "asap-report",
        description="The records of a folder as tables: one table for all that may be compared.",
        epilog=OTHERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path("results"), help="folder of records (results)"
    )
    parser.add_argument(
        "--format",
        choices=("rich", "markdown", "csv"),
        default="rich",
        help="rich: for a terminal (the default); csv: numbers unrounded",
    )
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
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        help="the table of an experiment, published figures beside measured ones: a name of "
        "conf/experiment or a file",
    )
    parser.add_argument(
        "--model", help="records of this model alone, and of an experiment its rows alone"
    )
    parser.add_argument("--out", type=Path, help="file to write instead of the terminal")
    return parser


if __name__ == "__main__":
    sys.exit(main())
