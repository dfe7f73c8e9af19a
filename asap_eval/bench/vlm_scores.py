"""What the answers of a task are worth, and what a method changes of it.

A task's block in a record (``tasks``), from its rows:

``score``: the number that enters Avg, on the scale that ``metric`` names; ``in_avg``: the same in
percent (MME over 2000). Every metric of lmms-eval's by its name, shares in percent; of POPE also
``f1_<category>`` and ``accuracy_<category>``. ``correct_pct`` of the answers, null where one can be
right in part. ``split scorer n failed``.
Beside the unpruned model: ``baseline`` (its score), ``delta`` (points of the score), its paired
bootstrap interval ``delta_ci95`` over samples (MME: pictures, MMBench: circles; parts of a task are
drawn separately), and ``mcnemar_p`` of right and wrong samples (MMBench: circles), null where one
can be so in part.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from asap_eval.bench.statistics import DRAWS, interval, mcnemar_p
from asap_eval.journal import Row
from asap_eval.vlm.lmms import VERSION, Totals
from asap_eval.vlm.tasks import Task

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
    pairs = list(zip(_right(task, before), _right(task, rows), strict=True))
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    draws = _f1_draws(before, rows) if task.kind == "f1" else _mean_draws(task, before, rows)
    return {
        "baseline": whole["score"],
        "delta": block["score"] - whole["score"],
        "delta_ci95": list(interval(draws)),
        "mcnemar_p": None if task.soft else mcnemar_p(lost, won),
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


def _mean_draws(task: Task, before: Sequence[Row], rows: Sequence[Row]) -> np.ndarray:
    """``[DRAWS]`` differences of a sum over parts of the mean over their units."""
    points = _points(task)
    units: dict[Any, dict[Any, list[tuple[float, float]]]] = {}
    for place, (old, new) in enumerate(zip(before, rows, strict=True)):
        # The parts of MMBench are no strata: its score is one mean.
        part = new["part"] if task.part is not None else None
        unit = place if new["group"] is None else str(new["group"])
        scores = (old["score"], new["score"])
        units.setdefault(part, {}).setdefault(unit, []).append(scores)
    generator, total = np.random.default_rng(0), np.zeros(DRAWS)
    for part_units in units.values():
        changes = [
            points([new for _, new in pairs]) - points([old for old, _ in pairs])
            for pairs in part_units.values()
        ]
        total += _drawn(np.array(changes), generator)
    return total


def _points(task: Task) -> Callable[[Sequence[float]], float]:
    """What the samples of one unit add to the mean of its part."""
    if task.kind == "mean":
        return lambda scores: PERCENT * scores[0]
    if task.circular:
        return lambda scores: PERCENT * min(scores)
    return lambda scores: PERCENT * (statistics.fmean(scores) + min(scores))


def _drawn(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """``[DRAWS]`` means of resampled values: only how often each value comes has to be drawn."""
    kinds, counts = np.unique(values, return_counts=True)
    drawn = generator.multinomial(len(values), counts / len(values), size=DRAWS)
    return drawn @ kinds / len(values)


def _f1_draws(before: Sequence[Row], rows: Sequence[Row]) -> np.ndarray:
    """``[DRAWS]`` differences of the mean F1 over parts."""
    generator = np.random.default_rng(0)
    parts = _parts(rows)
    total = np.zeros(DRAWS)
    for part in parts:
        cells = [
            (new["scored"][F1]["ground_truth"] == "yes", *(_said(row) for row in (old, new)))
            for old, new in zip(before, rows, strict=True)
            if new["part"] == part
        ]
        kinds, counts = np.unique(np.array(cells, dtype=int), axis=0, return_counts=True)
        drawn = generator.multinomial(len(cells), counts / len(cells), size=DRAWS)
        truth, old, new = kinds.T
        total += _f1(drawn, truth, new) - _f1(drawn, truth, old)
    return PERCENT * total / len(parts)


def _said(row: Row) -> int:
    """1 = yes, 0 = no, -1 = anything else."""
    return {"yes": 1, "no": 0}.get(row["scored"][F1]["prediction"], -1)


def _f1(drawn: np.ndarray, truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """F1 of yes, ``[DRAWS]``; an answer that is neither yes nor no is no yes.

    lmms-eval's recall counts only a plain no as missed, so that other answers are in no count.
    """
    hits = drawn @ ((truth == 1) & (said == 1))
    false = drawn @ ((truth == 0) & (said == 1))
    missed = drawn @ ((truth == 1) & (said == 0))
    return 2 * hits / np.maximum(2 * hits + false + missed, 1)
