"""``asap-eval-recompute``: today's intervals for records of an earlier version.

They are made from the per-sample files beside the records; no model runs, and nothing else of a
record changes. A record whose samples are absent, damaged or of another run stays as it is and is
named; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import asap_eval  # noqa: F401  (registers the methods)
from asap_eval.errors import AsapEvalError
from asap_eval.record import read_records
from asap_eval.runner.recompute import recompute


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the records of folders; 1 where one could not be, 2 where a folder is not there."""
    parser = argparse.ArgumentParser(
        "asap-eval-recompute",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", nargs="+", type=Path, help="folders of records")
    refused = 0
    for folder in parser.parse_args(argv).results:
        if not folder.is_dir():
            print(f"No folder {folder}: give folders that results went to.", file=sys.stderr)
            return 2
        found, problems = read_records(folder)
        others = {record.key: (path, record) for path, record in found}
        changed = 0
        for path, record in found:
            if record.status != "done":
                continue
            try:
                changed += bool(recompute((path, record), others))
            except AsapEvalError as error:
                refused += 1
                print(f"left as it was: {path}: {error}", file=sys.stderr)
        for problem in problems:
            print(f"skipped: {problem}", file=sys.stderr)
        print(f"{folder}: {changed} of {len(found)} records have new intervals.")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
