"""Scores of vision-language tasks in two runs, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from asap_eval.bench.language.scores import answered, difference
from asap_eval.data.questions.tasks import TASKS, Task
from asap_eval.statistics import paired

Rows = Mapping[str, Mapping[str, Any]]
"""Rows of a per-sample file by id."""

NEEDED = ("task", "part", "group", "score", "scored", "correct")


class Change(NamedTuple):
    """A number of a task after − before.

    Attributes:
        low, high: its paired 95 % interval. p: McNemar's, where the number is a share
            of answers (MMBench: circles) that are right or wrong; else None.
        questions: how many were paired.
    """

    low: float
    high: float
    p: float | None
    questions: int


def task_change(name: str, a: Rows, b: Rows) -> Change | None:
    """The change of ``<task>: score``, ``in_avg`` or ``correct_pct``.

    None where it is another number, or the runs did not keep the same questions of the task.
    """
    task, _, metric = name.partition(": ")
    if task not in TASKS or metric not in ("score", "in_avg", "correct_pct"):
        return None
    before, after = _of(task, a), _of(task, b)
    if not before or [row["id"] for row in before] != [row["id"] for row in after]:
        return None
    if metric == "correct_pct":
        old, new = ([bool(row["correct"]) for row in rows] for rows in (before, after))
        found = paired(old, new)
        return Change(*found.ci95, found.mcnemar_p, len(before))
    return _of_score(TASKS[task], metric, before, after)


def _of(task: str, rows: Rows) -> list[dict[str, Any]]:
    """Rows of a task in order of their ids; none where they do not say what they scored."""
    own = [dict(rows[name]) for name in sorted(rows) if rows[name].get("task") == task]
    return own if all(key in row for row in own for key in NEEDED) else []


def _of_score(task: Task, metric: str, before: Sequence[Any], after: Sequence[Any]) -> Change:
    """A score by the rule that compares a method with the unpruned model."""
    both = (answered(task, rows) for rows in (after, before))
    found = difference({"score": 0.0}, {"score": 0.0}, *both)
    scale = 100.0 / task.full if metric == "in_avg" else 1.0
    low, high = (scale * bound for bound in found["delta_ci95"])
    # F1 and MME's score move otherwise than the share of right answers.
    p = found["mcnemar_p"] if task.kind == "mean" or task.circular else None
    return Change(low, high, p, len(before))
