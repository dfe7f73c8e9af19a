"""Samples whose answer a method fixed or broke, from the per-sample files of it and of ``none``.

A sample is fixed where the unpruned model is wrong and the method right, broken the other way
round. Tasks whose answers can be right in part have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asap_eval.errors import RecordError
from asap_eval.record import RunRecord
from asap_eval.record.journal import Journal
from asap_eval.report.frame import frame
from asap_eval.report.layouts.columns import name_of
from asap_eval.report.sheet import DASH, Sheet, sheet_of_text

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


@dataclass(frozen=True)
class Compared:
    """A method's answers beside the unpruned model's.

    Attributes:
        record: of the method. task: which of its tasks. cases: fixed ones first.
    """

    record: RunRecord
    task: str
    cases: list[Case]

    @property
    def name(self) -> str:
        """Method and settings."""
        return name_of(frame([self.record]).to_dict("records")[0])

    def first(self, most: int | None) -> list[Case]:
        """So many cases of each outcome, None = all."""
        fixed, broken = self._by_outcome
        return [*fixed[:most], *broken[:most]]

    def sheet(self, most: int | None = None) -> Sheet:
        """So many cases of each outcome as a table."""
        shown = self.first(most)
        notes = list(self.notes)
        if len(shown) < len(self.cases):
            notes.insert(1, f"the first {most} of each; most=0 shows all")
        sheet = sheet_of_text(self.title, COLUMNS, map(cells_of, shown), notes=notes)
        return sheet.without_empty_columns() if shown else sheet

    @property
    def title(self) -> str:
        return f"{self.record.job.model} · {self.task} · {self.name}: answers fixed and broken"

    @property
    def notes(self) -> list[str]:
        """How many there are, and what to know of the weights."""
        fixed, broken = self._by_outcome
        n = (self.record.tasks or {})[self.task]["n"]
        notes = [f"{len(fixed)} fixed, {len(broken)} broken of {n} samples"]
        if not self.record.provenance.weights.get("trained"):
            notes.append("random weights, not comparable")
        return notes

    @property
    def _by_outcome(self) -> tuple[list[Case], list[Case]]:
        fixed, broken = ([c for c in self.cases if c.outcome == word] for word in (FIXED, BROKEN))
        return fixed, broken


def cells_of(case: Case) -> list[str]:
    """A row of `COLUMNS`."""
    said = [DASH if text is None else text or "(empty)" for text in (case.before, case.after)]
    return [case.id, case.part or DASH, case.question, case.truth, *said, case.outcome]


def compared(found: Sequence[tuple[Path, RunRecord]], task: str) -> list[Compared]:
    """Every record of a method that has the task, beside the unpruned record it was paired with.

    Args:
        found: records and where they lie.

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
        Compared(record, task, cases_of(_samples(*whole), _samples(path, record), task))
        for path, record, whole in pairs
    ]


def _samples(path: Path, record: RunRecord) -> list[dict[str, Any]]:
    if record.samples is None:
        raise RecordError(f"{path.name} names no per-sample file: run the job again.")
    rows = Journal(path.with_name(record.samples)).read()
    if rows and "truth" not in rows[0]:
        raise RecordError(f"{record.samples} does not hold the questions: run the job again.")
    return rows
