"""Which records of a folder a report can show, and what is wrong with the others.

A record's own fields are checked when it is read. What a benchmark keeps beside them (``analysis``,
``tasks``) has no declared type, and another version of it may have left other names there.
"""

from __future__ import annotations

from pathlib import Path

from asap_eval.errors import RecordError
from asap_eval.record import RunRecord, read_records
from asap_eval.report.layouts.overview import LAYOUTS, overview
from asap_eval.report.paper.claims import claims

FOREIGN = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What comes of a block that is not as its benchmark writes it."""


def readable(folder: Path) -> tuple[list[tuple[Path, RunRecord]], list[RecordError]]:
    """All records below a folder that can be shown, in order of their paths, and problems.

    They are tried together, and one by one only where that fails.
    """
    found, problems = read_records(folder)
    own = [record for _, record in found if record.job.bench in LAYOUTS]
    if not own or _fault(own) is None:
        return found, problems
    good = []
    for path, record in found:
        fault = _fault([record]) if record.job.bench in LAYOUTS else None
        if fault is None:
            good.append((path, record))
        else:
            problems.append(
                RecordError(
                    f"{path} does not hold what this version shows of bench={record.job.bench} "
                    f"({type(fault).__name__}: {fault}). Run the job again."
                )
            )
    return good, problems


def _fault(records: list[RunRecord]) -> Exception | None:
    try:
        overview(records)
        claims(records)
    except FOREIGN as error:
        return error
    return None
