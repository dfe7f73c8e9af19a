"""The score of a task's answers, and what a method changes of it.

A task's block in a record (``tasks``), from its rows:

``score``: the number that enters Avg, on the scale that ``metric`` names; ``in_avg``: the same in
percent (MME over 2000). Every metric of lmms-eval's by its name, shares in percent; of POPE also
``f1_<category>`` and ``accuracy_<category>``. ``correct_pct`` of the answers, null where one can be
right in part. ``split scorer n failed``.
Beside the unpruned model: ``baseline`` (its score), ``delta`` (points of the score), its paired
interval ``delta_ci95`` over samples (MME: pictures, MMBench: circles) and ``mcnemar_p`` of right
and wrong samples (MMBench: circles), null where one can be so in part. Where samples are right or
wrong and the score is their share the interval is the score interval of `statistics`; else it is
that of the mean of what each sample adds to ``delta`` (VQA accuracy, MME's points, F1).
"""

from __future__ import annotations

import statistics
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asap_eval.data.questions.lmms import VERSION, Totals
from asap_eval.data.questions.tasks import Task
from asap_eval.record.journal import Row, Rows
from asap_eval.statistics import mean_interval, paired

PERCENT = 100.0
F1, ACCURACY = "pope_f1_score", "pope_accuracy"


@dataclass
class Answered:
    """What the rows of one task say of its score; the rows themselves need not be in memory.

    Attributes:
        task: whose. right: whether each sample is. score: of each, 0 to 1. parts, groups: what each
            is scored with; None = by itself. scored: what the task says of them, by metric, of the
            samples that have it. failed: how many could not be asked.
    """

    task: Task
    right: array[int] = field(default_factory=lambda: array("b"))
    score: array[float] = field(default_factory=lambda: array("d"))
    parts: list[str | None] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    scored: dict[str, list[Any]] = field(default_factory=dict)
    failed: int = 0

    def add(self, row: Row) -> None:
        self.right.append(bool(row["correct"]))
        self.score.append(row["score"])
        self.parts.append(_name(row["part"]))
        self.groups.append(_name(row["group"]))
        for metric, value in row["scored"].items():
            self.scored.setdefault(metric, []).append(value)
        self.failed += row["error"] is not None

    def __len__(self) -> int:
        return len(self.right)


def answered(task: Task, rows: Iterable[Row]) -> Answered:
    """What rows of one task say of its score."""
    found = Answered(task)
    for row in rows:
        found.add(row)
    return found


def by_task(rows: Rows, tasks: Sequence[Task]) -> dict[str, Answered]:
    """The same of each task; all rows are of one of them."""
    found = {task.name: Answered(task) for task in tasks}
    for row in rows:
        found[row["task"]].add(row)
    return found


def _name(value: object) -> str | None:
    """Names that come again and again are one in memory."""
    return None if value is None else sys.intern(str(value))


def task_block(totals: Totals, own: Answered) -> dict[str, Any]:
    """The block of one task; of all of its samples, failed ones included."""
    task = totals.task
    scale = 1.0 if task.kind == "groups" else PERCENT  # those two come on their own scale
    block: dict[str, Any] = {}
    for metric in totals.functions:
        # MME's two metrics have the samples of their categories alone.
        if values := own.scored.get(metric):
            block[metric] = scale * totals.aggregate(metric, values)
    whole = [block[metric] for metric in totals.functions if metric in block]
    if task.kind == "f1":
        score = _by_part(totals, own, block)
    else:
        score = sum(whole) if task.kind == "groups" else whole[0]
    return {
        "score": score,
        "in_avg": score * PERCENT / task.full,
        "metric": task.score,
        **block,
        "correct_pct": None if task.soft else PERCENT * statistics.fmean(own.right),
        "split": task.split,
        "scorer": f"lmms-eval {VERSION}: {task.scorer}",
        "n": len(own),
        "failed": own.failed,
    }


def _by_part(totals: Totals, own: Answered, block: dict[str, Any]) -> float:
    """Adds F1 and accuracy of every part to a block; the mean F1 of the parts."""
    f1 = []
    for part in _parts(own):
        f1.append(PERCENT * totals.aggregate(F1, _of_part(own, own.scored[F1], part)))
        accuracy = totals.aggregate(ACCURACY, _of_part(own, own.scored[ACCURACY], part))
        block[f"f1_{part}"], block[f"accuracy_{part}"] = f1[-1], PERCENT * accuracy
    block["metric"] = f"mean F1 of {', '.join(_parts(own))}, %"  # a limit may leave one out
    return statistics.fmean(f1)


def _parts(own: Answered) -> list[str]:
    return sorted(map(str, set(own.parts)))


def _of_part(own: Answered, values: Sequence[Any], part: str) -> list[Any]:
    """Those of a part; every sample of the task has one."""
    return [value for value, of in zip(values, own.parts, strict=True) if of == part]


def average(tasks: Mapping[str, Mapping[str, Any]]) -> float:
    """Mean over the tasks of what each puts into it, percent."""
    return statistics.fmean(block["in_avg"] for block in tasks.values())


def relative(tasks: Mapping[str, Mapping[str, Any]], whole: Mapping[str, Any]) -> dict[str, Any]:
    """A method's scores in percent of the unpruned model's, in both readings.

    ``rel``: the paper's, averages rounded to one decimal before they are divided;
    ``rel_of_ratios``: the mean of each task's ratio. None where a divisor is 0.
    """
    before, after = round(average(whole), 1), round(average(tasks), 1)
    pairs = [(block["score"], whole[name]["score"]) for name, block in tasks.items()]
    possible = all(old for _, old in pairs)
    ratios = statistics.fmean(new / old for new, old in pairs) if possible else None
    return {
        "avg_baseline": average(whole),
        "rel": PERCENT * after / before if before else None,
        "rel_of_ratios": None if ratios is None else PERCENT * ratios,
    }


def difference(
    block: Mapping[str, Any], whole: Mapping[str, Any], own: Answered, before: Answered
) -> dict[str, Any]:
    """``baseline delta delta_ci95 mcnemar_p`` of a task, from both models' samples in one order."""
    task = own.task
    found = paired(_right(before), _right(own))
    if task.kind == "f1":
        bounds = _f1_interval(before, own)
    elif task.soft or task.part is not None:
        bounds = _points_interval(before, own)
    else:
        bounds = found.ci95
    return {
        "baseline": whole["score"],
        "delta": block["score"] - whole["score"],
        "delta_ci95": list(bounds),
        "mcnemar_p": None if task.soft else found.mcnemar_p,
    }


def _right(own: Answered) -> Sequence[int]:
    """Whether each sample is right; of a circular task each circle, in all of its orders."""
    if not own.task.circular:
        return own.right
    circles: dict[str | None, bool] = {}
    for circle, right in zip(own.groups, own.right, strict=True):
        circles[circle] = circles.get(circle, True) and bool(right)
    return list(circles.values())


def _points_interval(before: Answered, own: Answered) -> tuple[float, float]:
    """Of the difference of a sum over parts of the mean over their units (MME: pictures)."""
    points, most = _points(own.task)
    parts = _units(own)
    count = sum(size for size, _ in parts)
    changes = [
        (points([own.score[at] for at in unit]) - points([before.score[at] for at in unit]))
        * (count / size)
        for size, units in parts
        for unit in units
    ]
    return _interval(changes, most * len(parts))


def _units(own: Answered) -> list[tuple[int, Iterable[Sequence[int]]]]:
    """By part, how many units there are, and the places of the samples of each."""
    parts = own.parts if own.task.part is not None else [None] * len(own)
    if own.task.group is None:
        alone: dict[str | None, array[int]] = {}
        for place, part in enumerate(parts):
            alone.setdefault(part, array("q")).append(place)
        return [(len(places), zip(places)) for places in alone.values()]
    found: dict[str | None, dict[str | None, list[int]]] = {}
    for place, (part, group) in enumerate(zip(parts, own.groups, strict=True)):
        found.setdefault(part, {}).setdefault(group, []).append(place)
    return [(len(units), units.values()) for units in found.values()]


def _points(task: Task) -> tuple[Callable[[Sequence[float]], float], float]:
    """What the samples of one unit add to the mean of its part, and the most that can be."""
    if task.kind == "mean":
        return lambda scores: PERCENT * scores[0], PERCENT
    return lambda scores: PERCENT * (statistics.fmean(scores) + min(scores)), 2 * PERCENT


def _f1_interval(before: Answered, own: Answered) -> tuple[float, float]:
    """Of the difference of the mean F1 over parts.

    F1 is hits over a size, ``2 TP / (2 TP + FP + FN)``. With F and S the means of both runs' F1 and
    size, ``F1' - F1 = ((hits' - hits) - F (size' - size)) / S`` exactly: a sum over questions, to
    which one that is answered alike adds nothing.
    """
    parts = _parts(own)
    changes = []
    for part in parts:
        old, new = (
            [_f1_counts(one) for one in _of_part(own, run.scored[F1], part)]
            for run in (before, own)
        )
        totals = [[sum(counts) for counts in zip(*run, strict=True)] for run in (old, new)]
        mean = statistics.fmean(hits / size if size else 0.0 for hits, size in totals)
        size = statistics.fmean(size for _, size in totals) or 1.0
        changes += [
            PERCENT * len(own) / len(parts) * ((y[0] - x[0]) - mean * (y[1] - x[1])) / size
            for x, y in zip(old, new, strict=True)
        ]
    return _interval(changes, PERCENT)


def _f1_counts(scored: Mapping[str, Any]) -> tuple[int, int]:
    """What a question adds to the hits and to the size of an F1 of yes.

    lmms-eval's recall counts only a plain no as missed, so that other answers are in no count.
    """
    said, truth = scored["prediction"], scored["ground_truth"] == "yes"
    hit = 2 * (truth and said == "yes")
    return hit, hit + (not truth and said == "yes") + (truth and said == "no")


def _interval(changes: Sequence[float], most: float) -> tuple[float, float]:
    """Of the mean of what all units add, of which an average one adds at most ``most``."""
    most = max(most, *map(abs, changes))  # a unit of a small part weighs more than the average
    found = mean_interval(changes, (-most, most))
    assert found is not None
    return found
