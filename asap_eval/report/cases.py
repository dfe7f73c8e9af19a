"""Cases: samples whose answer a method fixed or broke, from its per-sample file and ``none``'s.

A sample is fixed where the unpruned model is wrong and the method right, broken the other way
round. Tasks whose answers can be right in part have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asap_eval.errors import RecordError
from asap_eval.journal import Journal
from asap_eval.record import RunRecord
from asap_eval.report.columns import name_of
from asap_eval.report.frame import frame
from asap_eval.report.render import DASH, Table

FIXED, BROKEN = "fixed", "broken"

COLUMNS = ["sample", "part", "question", "truth", "unpruned", "method", "outcome"]


@dataclass(frozen=True)
class Case:
    """One sample whose answer changed between right and wrong.

    Attributes:
        id: of the sample. part: of the task, None without. truth: the right answer in words.
        before, after: answers of the unpruned model and of the method; None = it gave none.
        outcome: ``fixed`` or ``broken``.
    """

    id: str
    part: str | None
    question: str
    truth: str
    before: str | None
    after: str | None
    outcome: str


def cases_of(
    before: Iterable[dict[str, Any]], after: Iterable[dict[str, Any]], task: str
) -> list[Case]:
    """The cases of a task, fixed ones first, in the order of the samples.

    Args:
        before, after: rows of the per-sample files of the unpruned model and of the method.
    """
    whole = {row["id"]: row for row in before if row.get("task") == task}
    found = []
    for row in after:
        old = whole.get(row["id"])
        if old is None or old["correct"] is None or old["correct"] == row["correct"]:
            continue
        found.append(
            Case(
                id=row["id"],
                part=row["part"],
                question=row["question"],
                truth=row["truth"],
                before=old["prediction"],
                after=row["prediction"],
                outcome=FIXED if row["correct"] else BROKEN,
            )
        )
    return sorted(found, key=lambda case: case.outcome != FIXED)


def case_tables(
    found: Sequence[tuple[Path, RunRecord]], task: str, most: int | None = None
) -> list[Table]:
    """A table of cases for each record of a method, beside the unpruned record it was paired with.

    Args:
        found: records and where they lie. most: cases of each outcome; None = all.

    Raises:
        RecordError: no record has the task beside an unpruned one, or a per-sample file is missing.
    """
    by_key = {record.key: (path, record) for path, record in found}
    pairs = [
        (path, record, by_key[record.baseline.key])
        for path, record in found
        if record.baseline is not None
        and record.baseline.key in by_key
        and task in (record.tasks or {})
    ]
    if not pairs:
        raise RecordError(
            f"No record here has task '{task}' beside the unpruned model's: run "
            f"asap-eval bench=vlm tasks={task} method=<method> first, into one folder."
        )
    return [
        _table(record, cases_of(_samples(*whole), _samples(path, record), task), task, most)
        for path, record, whole in pairs
    ]


def _samples(path: Path, record: RunRecord) -> list[dict[str, Any]]:
    if record.samples is None:
        raise RecordError(f"{path.name} names no per-sample file: run the job again.")
    rows = Journal(path.with_name(record.samples)).read()
    if rows and "truth" not in rows[0]:
        raise RecordError(f"{record.samples} does not hold the questions: run the job again.")
    return rows


def _table(record: RunRecord, cases: Sequence[Case], task: str, most: int | None) -> Table:
    fixed, broken = ([c for c in cases if c.outcome == word] for word in (FIXED, BROKEN))
    n = (record.tasks or {})[task]["n"]
    name = name_of(frame([record]).to_dict("records")[0])
    shown = [*fixed[:most], *broken[:most]]
    notes = [f"{len(fixed)} fixed, {len(broken)} broken of {n} samples"]
    if len(shown) < len(cases):
        notes.append(f"the first {most} of each; --most 0 shows all")
    if not record.provenance.weights.get("trained"):
        notes.append("random weights, not comparable")
    table = Table(
        title=f"{record.job.model} · {task} · {name}: answers fixed and broken",
        columns=COLUMNS,
        rows=[
            [
                *(c.id, c.part or DASH, c.question, c.truth),
                *(DASH if said is None else said or "(empty)" for said in (c.before, c.after)),
                c.outcome,
            ]
            for c in shown
        ],
        notes=notes,
    )
    return table.without_empty_columns() if shown else table
