"""Top-1 and top-5 from rows with ``correct`` and ``top5``: of images, or of videos."""

from __future__ import annotations

from asap_eval.record import Metrics
from asap_eval.record.journal import Rows


def accuracy(rows: Rows) -> Metrics:
    """Percent of all rows, failed ones included; no top-5 where a model has fewer classes."""
    first = five = failed = 0
    few = False
    for row in rows:
        first += bool(row["correct"])
        five += bool(row["top5"])
        few |= row["top5"] is None
        failed += row["error"] is not None
    return Metrics(
        top1=100.0 * first / len(rows),
        top5=None if few else 100.0 * five / len(rows),
        n=len(rows),
        failed=failed,
    )
