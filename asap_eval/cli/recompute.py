"""``asap-eval recompute``: today's intervals for records of an earlier version.

They are made from the per-sample files beside the records; no model runs, and nothing else of a
record changes. A record whose samples are absent, damaged or of another run stays as it is and is
named; the exit code is then 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asap_eval.cli.guard import FAILED, USAGE
from asap_eval.cli.words import command
from asap_eval.errors import AsapEvalError


@dataclass
class Asked:
    """Whose intervals are made."""

    results: list[Path]  # folders of records


def main(argv: Sequence[str]) -> int:
    """Rewrite the records of folders; 1 where one could not be, 2 where a folder is not there."""
    return command(argv, Asked, "recompute", str(__doc__), _recomputed, places=["results"])


def _recomputed(asked: Asked) -> int:
    from asap_eval.record import read_records
    from asap_eval.runner.recompute import recompute

    refused = 0
    for folder in asked.results:
        if not folder.is_dir():
            print(f"No folder {folder}: give folders that results went to.", file=sys.stderr)
            return USAGE
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
    return FAILED if refused else 0
