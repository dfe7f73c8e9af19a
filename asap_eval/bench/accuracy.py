"""Top-1 and top-5 from rows with ``correct`` and ``top5``: of images, or of videos."""

from __future__ import annotations

from collections.abc import Sequence

from asap_eval.record import Metrics
from asap_eval.record.journal import Row


def accuracy(rows: Sequence[Row]) -> Metrics:
    """Percent of all rows, failed ones included; no top-5 where a model has fewer classes."""

    def percent(name: str) -> float:
        return 100.0 * sum(bool(row[name]) for row in rows) / len(rows)

    few = any(row["top5"] is None for row in rows)
    return Metrics(
        top1=percent("correct"),
        top5=None if few else percent("top5"),
        n=len(rows),
        failed=sum(row["error"] is not None for row in rows),
    )
