"""Scores of several tasks in one line: measured, published, and the change from the unpruned model.

A record's block of a task has ``score n`` and, beside an unpruned record, ``delta`` and
``delta_ci95``. Avg is the mean over tasks on scales of 100; Rel is Avg in percent of the unpruned
model's, both rounded to one decimal first, as the paper does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from asap_eval.experiment import Published
from asap_eval.record import RunRecord
from asap_eval.report.experiment.lines import MARK
from asap_eval.report.experiment.match import Found
from asap_eval.report.experiment.verdict import JUDGED, NOT_COMPARABLE, TENTH, verdict, word_of
from asap_eval.report.layouts.columns import Row, present

FULL = {"mme": 2000.0}
"""What makes 100 in Avg where it is not 100. MME ends at 2800; the paper divides by 2000."""

AGREES = 0.051
"""By how much a printed mean may miss that of the printed cells: their rounding."""


def tasks_of(found: Iterable[Found], records: Iterable[RunRecord]) -> list[str]:
    """Tasks of a table: those published in the order of the file, then others that were run."""
    names: dict[str, None] = {}
    for f in found:
        names |= dict.fromkeys(f.entry.published.tasks if f.entry.published else ())
    for record in records:
        names |= dict.fromkeys(record.tasks or ())
    return list(names)


def average(scores: Mapping[str, float | None], tasks: Sequence[str]) -> float | None:
    """Mean over all of some tasks on scales of 100; None where one is missing."""
    found = [(scores.get(task), FULL.get(task, 100.0)) for task in tasks]
    values = [100 * score / full for score, full in found if score is not None]
    return fmean(values) if values and len(values) == len(found) else None


def relative(mean: float | None, whole: float | None) -> float | None:
    """A mean in percent of the unpruned model's."""
    return None if mean is None or not whole else 100 * round(mean, 1) / round(whole, 1)


def task_columns(
    found: Sequence[Found],
    tasks: Sequence[str],
    unpruned: RunRecord | None,
    printed: Published | None,
    samples: Mapping[str, int],
) -> Row:
    """Columns of one line, ``<what>_<task>`` and of their means.

    Args:
        found: its entries, equal but for the seed. tasks: of the table.
        unpruned: the unpruned model's record, and ``printed`` its published scores.
        samples: documents behind the published scores, by task.
    """
    records = [f.record for f in found if f.record is not None]
    published = found[0].entry.published or Published()
    if any(record.job.model != f.entry.model for f, record in _ran(found)):
        published = replace(Published(), row=published.row)
    whole = _scores(unpruned)
    scores = {task: _mean(_scores(record).get(task) for record in records) for task in tasks}
    row: Row = {
        name: _mean(getattr(record.tokens, name) for record in records if record.tokens)
        for name in ("handed_to_llm", "llm_layer_mean", "cached_entries", "cached_pct")
    }
    row["published_tokens"] = published.tokens
    words = []
    for task in tasks:
        blocks = [(record.tasks or {}).get(task, {}) for record in records]
        row[f"score_{task}"] = scores[task]
        row[f"published_{task}"] = published.tasks.get(task)
        delta, low, high = _change(blocks)
        row |= {f"delta_{task}": delta, f"low_{task}": low, f"high_{task}": high}
        change = _published_change(published, printed, task)
        row[f"published_delta_{task}"] = change
        row[f"difference_{task}"] = None if delta is None or change is None else delta - change
        n, there = next((b["n"] for b in blocks if "n" in b), None), samples.get(task)
        word = _judged(published, task, row, n, there)
        other = word_of(word) in JUDGED and any(block.get("n") != there for block in blocks)
        row[f"verdict_{task}"] = f"{word} {MARK}" if other else word
        words += [word] if word else []
    # Over all tasks of the table or not at all: a mean over some of them is another number.
    row["avg"] = average(scores, tasks)
    row["rel"] = relative(row["avg"], average(whole, tasks))
    row |= {"published_avg": published.avg, "published_rel": published.rel}
    row["cells_avg"] = average(published.tasks, list(published.tasks))
    return row | {"task_verdict": summary(words), "reading": found[0].entry.reading}


def summary(words: Sequence[str]) -> str | None:
    """Verdicts of all tasks in one: how many of each."""
    counts = Counter(word.partition(":")[0] for word in words)
    parts = [f"{word}: {counts[word]}" for word in (*JUDGED, NOT_COMPARABLE) if counts[word]]
    return ", ".join(parts) or None


def contradiction(row: Row) -> str | None:
    """A printed mean that is not the mean of its printed cells."""
    printed, cells = row["published_avg"], row["cells_avg"]
    if not present(printed) or not present(cells) or abs(printed - cells) <= AGREES:
        return None
    return f"{row['published_row']}: printed Avg {printed:g}, its own cells give {cells:.2f}"


def _ran(found: Sequence[Found]) -> list[tuple[Found, RunRecord]]:
    return [(f, f.record) for f in found if f.record is not None]


def _scores(record: RunRecord | None) -> dict[str, float]:
    blocks = (record.tasks or {}) if record is not None else {}
    return {task: block["score"] for task, block in blocks.items() if present(block["score"])}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _change(blocks: Sequence[Mapping[str, Any]]) -> tuple[float | None, ...]:
    """Measured difference and bounds of its interval: means over seeds."""
    paired = [block for block in blocks if block.get("delta_ci95")]
    if not paired:
        return None, None, None
    ends = [block["delta_ci95"] for block in paired]
    return (
        fmean(block["delta"] for block in paired),
        fmean(low for low, _ in ends),
        fmean(high for _, high in ends),
    )


def _published_change(published: Published, printed: Published | None, task: str) -> float | None:
    if printed is None or task not in published.tasks or task not in printed.tasks:
        return None
    return published.tasks[task] - printed.tasks[task]


def _judged(
    published: Published, task: str, row: Row, n: int | None, samples: int | None
) -> str | None:
    change, low = row[f"published_delta_{task}"], row[f"low_{task}"]
    if change is None or low is None:
        return None
    scale = 100 / FULL.get(task, 100.0)
    return verdict(
        Published(delta=change * scale, not_comparable=published.not_comparable),
        delta=row[f"delta_{task}"] * scale,
        low=low * scale,
        high=row[f"high_{task}"] * scale,
        macs=None,
        n=n,
        samples=samples,
        rounding=TENTH,
    )
