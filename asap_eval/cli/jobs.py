"""``asap-eval jobs``: what runs in a folder of results, and what failed there.

Read from the folder alone, so from any machine that sees it: samples done, workers alive, samples
a second, time left; below, what every worker that failed said last and where its log is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from asap_eval.cli.guard import USAGE
from asap_eval.cli.words import command
from asap_eval.launch.standing import Standing, standings
from asap_eval.report.sheet import DASH, Cell, Head, Sheet, sheet_of_text


@dataclass
class Asked:
    """Where is looked."""

    results: Path = Path("results")  # folder of the records


def main(argv: Sequence[str]) -> int:
    """Print the tables; 2 where the folder is not there."""
    return command(argv, Asked, "jobs", str(__doc__), _shown, places=["results"])


def _shown(asked: Asked) -> int:
    from asap_eval.report.text import show

    if not asked.results.is_dir():
        print(f"No folder {asked.results}: give the one that results go to.", file=sys.stderr)
        return USAGE
    found = standings(asked.results)
    if not found:
        print(f"Nothing runs in {asked.results}.")
        return 0
    failed = failures_sheet(found)
    show([jobs_sheet(found), *([failed] if failed.rows else [])], wide=False)
    return 0


def jobs_sheet(found: Sequence[Standing]) -> Sheet:
    """A line for each job that is not done."""
    rows = [[job.stem, job.state, *_figures(job)] for job in found]
    return sheet_of_text(
        "Jobs",
        [Head("job", kind="text", shortens=True), "state"],
        rows,
        numbers=["samples", "done %", "workers", "per s", "left"],
    )


def _figures(job: Standing) -> list[str | Cell]:
    share = 100 * job.done / job.total if job.total else 0.0
    rate, left = job.rate, job.left
    return [
        Cell(f"{job.done}/{job.total}", job.done),
        Cell(f"{share:.1f}", share),
        Cell(str(len(job.alive)), len(job.alive)),
        Cell(f"{rate:.1f}" if rate is not None else DASH, rate),
        Cell(str(timedelta(seconds=round(left))) if left is not None else DASH, left),
    ]


def failures_sheet(found: Sequence[Standing]) -> Sheet:
    """A line for each worker that an error stopped, and for what ended a job."""
    rows = [
        [worker or DASH, job.stem, failure.message, failure.log or DASH]
        for job in found
        for worker, failure in job.failures()
    ]
    return sheet_of_text("Failures", ["worker", "job", "what it said", "log"], rows)
