"""What stands out among the user's own records: a sentence only where the records support it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from asap_eval.record import RunRecord
from asap_eval.report.frame import GROUP, SAME_WORK, frame
from asap_eval.report.layouts.columns import Row, name_of, number, present, text
from asap_eval.report.page.headline import UNITS, Sentence, Tone, count


def findings(records: Sequence[RunRecord]) -> list[Sentence]:
    """Sentences on each group of records that may be compared, in the order of their tables."""
    said: list[Sentence] = []
    if not records:
        return said
    for _, part in frame(records).groupby(GROUP, dropna=False, sort=False):
        rows = part.to_dict("records")
        pruned = [row for row in rows if row["method"] != "none" and present(row["delta_low"])]
        for find in (_best, _same, _worst, _below):
            said += find(pruned)
        said += _failed(rows)
    return said


def _best(rows: Sequence[Row]) -> list[Sentence]:
    """The most accurate of the rows that do the least work."""
    known = [row for row in rows if present(row["reduction_pct"])]
    if len(known) < 2:
        return []
    least = min(row["reduction_pct"] for row in known)
    same = [row for row in known if row["reduction_pct"] <= least + 2 * SAME_WORK]
    ordered = sorted(same, key=lambda row: (-row["delta_top1"], row["reduction_pct"], row["key"]))
    best, others = ordered[0], ordered[1:]
    if not others:
        return []
    level = [str(row["method"]) for row in others if row["delta_high"] >= best["delta_low"]]
    against = (
        f"By their intervals it cannot be told from {', '.join(dict.fromkeys(level))}."
        if level
        else f"Its interval lies above all of {count(len(others), 'other')} there."
    )
    line = f"{name_of(best)} has the best accuracy at the least work ({_where(best)}): "
    return [Sentence("best", f"{line}{_figure(best)}. {against}", tuple(map(_line, ordered)))]


def _same(rows: Sequence[Row]) -> list[Sentence]:
    """Rows whose interval holds 0, the least work first."""
    level = [row for row in rows if row["delta_low"] <= 0 <= row["delta_high"]]
    ordered = sorted(level, key=lambda row: (_work(row), row["key"]))
    said = _some(ordered, "level", "cannot be told from the unpruned model", rows, _line)
    return [replace(each, text=f"{each.text} Least work: {_line(ordered[0])}.") for each in said]


def _worst(rows: Sequence[Row]) -> list[Sentence]:
    """The largest loss, where the interval leaves no doubt that it is one."""
    lost = [row for row in rows if row["delta_high"] < 0]
    if len(rows) < 2 or not lost:
        return []
    worst = min(lost, key=lambda row: (row["delta_top1"], row["key"]))
    line = f"{name_of(worst)} loses most ({_where(worst)}): {_figure(worst)}."
    return [Sentence("worst", line)]


def _below(rows: Sequence[Row]) -> list[Sentence]:
    """Rows whose whole interval lies below the random control of their work."""

    def high(row: Row) -> float:
        return float(row["top1"] - row["delta_top1"] + row["delta_high"])

    held = [row for row in rows if row["below_random"] and high(row) < row["random_top1"]]
    ordered = sorted(held, key=lambda row: (row["top1"] - row["random_top1"], row["key"]))
    told = "lie below random patches at the same work by their whole interval"
    return _some(ordered, "worst", told, rows, lambda row: f"{_line(row)}, random {_random(row)}")


def _failed(rows: Sequence[Row]) -> list[Sentence]:
    lost = [row for row in rows if row["status"] == "failed"]
    return _some(
        lost, "failed", "failed", rows, lambda row: f"{name_of(row)}: {text(row['error'])}"
    )


def _some(
    found: Sequence[Row], tone: Tone, told: str, rows: Sequence[Row], line: Callable[[Row], str]
) -> list[Sentence]:
    """One sentence on some of the rows; nothing where there are none."""
    if not found:
        return []
    names = ", ".join(dict.fromkeys(str(row["method"]) for row in found))
    many = f"{len(found)} of {count(len(rows), 'row')} {told}"
    return [Sentence(tone, f"{many} ({_where(found[0])}): {names}.", tuple(map(line, found)))]


def _where(row: Row) -> str:
    words = [row["model"], row["bench"]]
    if present(row["n"]):
        words.append(f"{row['n']:.0f} {UNITS.get(str(row['bench']), 'images')}")
    return ", ".join(map(str, words))


def _line(row: Row) -> str:
    return f"{name_of(row)}: {_figure(row)}"


def _figure(row: Row) -> str:
    """Accuracy, its change with the interval, and the change of the work."""
    change = f"{row['delta_top1']:+.2f} points [{row['delta_low']:+.2f}, {row['delta_high']:+.2f}]"
    work = f", {row['reduction_pct']:+.1f} % MACs" if present(row["reduction_pct"]) else ""
    return f"{row['top1']:.2f} % top-1, {change}{work}"


def _random(row: Row) -> str:
    return number(row["random_top1"], "{:.2f} %")


def _work(row: Row) -> float:
    return float(row["reduction_pct"]) if present(row["reduction_pct"]) else 0.0
