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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asap_eval.data.questions.lmms import VERSION, Totals
from asap_eval.data.questions.tasks import Task
from asap_eval.record.journal import Row
from asap_eval.statistics import mean_interval, paired

PERCENT = 100.0
F1, ACCURACY = "pope_f1_score", "pope_accuracy"


def task_block(totals: Totals, rows: Sequence[Row]) -> dict[str, Any]:
    """The block of one task; ``rows`` are all of its samples, failed ones included."""
    task = totals.task
    scale = 1.0 if task.kind == "groups" else PERCENT  # those two come on their own scale
    block: dict[str, Any] = {}
    for metric in totals.functions:
        values = [row["scored"][metric] for row in rows if metric in row["scored"]]
        if values:  # MME's two metrics have the samples of their categories alone
            block[metric] = scale * totals.aggregate(metric, values)
    whole = [block[metric] for metric in totals.functions if metric in block]
    if task.kind == "f1":
        score = _by_part(totals, rows, block)
    else:
        score = sum(whole) if task.kind == "groups" else whole[0]
    right = [row["correct"] for row in rows]
    return {
        "score": score,
        "in_avg": score * PERCENT / task.full,
        "metric": task.score,
        **block,
        "correct_pct": None if task.soft else PERCENT * statistics.fmean(map(bool, right)),
        "split": task.split,
        "scorer": f"lmms-eval {VERSION}: {task.scorer}",
        "n": len(rows),
        "failed": sum(row["error"] is not None for row in rows),
    }


def _by_part(totals: Totals, rows: Sequence[Row], block: dict[str, Any]) -> float:
    """Adds F1 and accuracy of every part to a block; the mean F1 of the parts."""
    f1 = []
    for part in _parts(rows):
        own = [row["scored"] for row in rows if row["part"] == part]
        f1.append(PERCENT * totals.aggregate(F1, [scored[F1] for scored in own]))
        accuracy = totals.aggregate(ACCURACY, [scored[ACCURACY] for scored in own])
        block[f"f1_{part}"], block[f"accuracy_{part}"] = f1[-1], PERCENT * accuracy
    block["metric"] = f"mean F1 of {', '.join(_parts(rows))}, %"  # a limit may leave one out
    return statistics.fmean(f1)


def _parts(rows: Sequence[Row]) -> list[str]:
    return sorted({str(row["part"]) for row in rows})


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
    task: Task,
    block: Mapping[str, Any],
    whole: Mapping[str, Any],
    rows: Sequence[Row],
    before: Sequence[Row],
) -> dict[str, Any]:
    """``baseline delta delta_ci95 mcnemar_p`` of a task, from both models' rows in one order."""
    found = paired(_right(task, before), _right(task, rows))
    if task.kind == "f1":
        bounds = _f1_interval(before, rows)
    elif task.soft or task.part is not None:
        bounds = _points_interval(task, before, rows)
    else:
        bounds = found.ci95
    return {
        "baseline": whole["score"],
        "delta": block["score"] - whole["score"],
        "delta_ci95": list(bounds),
        "mcnemar_p": None if task.soft else found.mcnemar_p,
    }


def _right(task: Task, rows: Sequence[Row]) -> list[bool]:
    """Whether each sample is right; of a circular task each circle, in all of its orders."""
    if not task.circular:
        return [bool(row["correct"]) for row in rows]
    circles: dict[str, bool] = {}
    for row in rows:
        circle = str(row["group"])
        circles[circle] = circles.get(circle, True) and bool(row["correct"])
    return list(circles.values())


def _points_interval(task: Task, before: Sequence[Row], rows: Sequence[Row]) -> tuple[float, float]:
    """Of the difference of a sum over parts of the mean over their units (MME: pictures)."""
    points, most = _points(task)
    units: dict[Any, dict[Any, list[tuple[float, float]]]] = {}
    for place, (old, new) in enumerate(zip(before, rows, strict=True)):
        part = new["part"] if task.part is not None else None
        unit = place if new["group"] is None else str(new["group"])
        scores = (old["score"], new["score"])
        units.setdefault(part, {}).setdefault(unit, []).append(scores)
    count = sum(map(len, units.values()))
    changes = [
        (points([new for _, new in pairs]) - points([old for old, _ in pairs]))
        * (count / len(of_part))
        for of_part in units.values()
        for pairs in of_part.values()
    ]
    return _interval(changes, most * len(units))


def _points(task: Task) -> tuple[Callable[[Sequence[float]], float], float]:
    """What the samples of one unit add to the mean of its part, and the most that can be."""
    if task.kind == "mean":
        return lambda scores: PERCENT * scores[0], PERCENT
    return lambda scores: PERCENT * (statistics.fmean(scores) + min(scores)), 2 * PERCENT


def _f1_interval(before: Sequence[Row], rows: Sequence[Row]) -> tuple[float, float]:
    """Of the difference of the mean F1 over parts.

    F1 is hits over a size, ``2 TP / (2 TP + FP + FN)``. With F and S the means of both runs' F1 and
    size, ``F1' - F1 = ((hits' - hits) - F (size' - size)) / S`` exactly: a sum over questions, to
    which one that is answered alike adds nothing.
    """
    parts = _parts(rows)
    changes = []
    for part in parts:
        old, new = (
            [_f1_counts(row) for row, of in zip(run, rows, strict=True) if of["part"] == part]
            for run in (before, rows)
        )
        totals = [[sum(counts) for counts in zip(*run, strict=True)] for run in (old, new)]
        mean = statistics.fmean(hits / size if size else 0.0 for hits, size in totals)
        size = statistics.fmean(size for _, size in totals) or 1.0
        changes += [
            PERCENT * len(rows) / len(parts) * ((y[0] - x[0]) - mean * (y[1] - x[1])) / size
            for x, y in zip(old, new, strict=True)
        ]
    return _interval(changes, PERCENT)


def _f1_counts(row: Row) -> tuple[int, int]:
    """What a question adds to the hits and to the size of an F1 of yes.

    lmms-eval's recall counts only a plain no as missed, so that other answers are in no count.
    """
    said, truth = row["scored"][F1]["prediction"], row["scored"][F1]["ground_truth"] == "yes"
    hit = 2 * (truth and said == "yes")
    return hit, hit + (not truth and said == "yes") + (truth and said == "no")


def _interval(changes: Sequence[float], most: float) -> tuple[float, float]:
    """Of the mean of what all units add, of which an average one adds at most ``most``."""
    most = max(most, *map(abs, changes))  # a unit of a small part weighs more than the average
    found = mean_interval(changes, (-most, most))
    assert found is not None
    return found
