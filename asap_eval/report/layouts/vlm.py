"""Layout of ``bench=vlm``: averages, tokens and work by method, and each task beside ``none``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from asap_eval.report.layouts.columns import (
    BUDGET,
    CHANGE,
    FIRED,
    GMACS,
    LLM_COST,
    METHOD,
    SAMPLES,
    SETTINGS,
    Column,
    Row,
    name_of,
    number,
    numbers,
    part,
    present,
)
from asap_eval.report.sheet import DASH, Cell, Head, Sheet, sheet_of_text

_KEPT = ("kept_min", "kept_median", "kept_mean", "kept_max")
PARTS = ("tower", "projector", "prefill", "decode", "method")


def _of_analysis(row: Row, name: str, form: str) -> str:
    return number(part(row, "analysis").get(name), form)


def _rel(row: Row) -> str:
    found = part(row, "analysis")
    if "rel" not in found:
        return DASH
    return f"{number(found['rel'], '{:.1f}')} ({number(found['rel_of_ratios'], '{:.1f}')})"


VLM = [
    METHOD,
    SETTINGS,
    SAMPLES,
    Column("Avg %", lambda row: _of_analysis(row, "avg", "{:.2f}")),
    Column(
        "Rel % (mean of ratios)",
        _rel,
        brief=Column("Rel %", lambda row: _of_analysis(row, "rel", "{:.1f}")),
    ),
    *LLM_COST,
    GMACS,
    CHANGE,
    Column(
        "kept of a crop: min / median / mean / max",
        lambda row: numbers(row, "{:.0f} / {:g} / {:.1f} / {:.0f}", *_KEPT),
        wide=True,
    ),
    FIRED,
    BUDGET,
]


def unequal_counts(rows: Sequence[Row]) -> list[str]:
    """Why rows of one table have other counts of tokens, where the language model got them."""
    rows = [row for row in rows if present(row["handed_to_llm"]) and row["method"] != "none"]
    inside = [r for r in rows if present(r["llm_layer_mean"]) and _fewer_inside(r)]
    asked = [row for row in rows if row["budget"] == "tokens" and present(row["target"])]
    free = [row for row in rows if not present(row["target"])] if asked else []
    off = [row for row in asked if _misses(row)]
    notes = []
    if inside:
        notes.append(f"{_methods(inside)}: some tokens are removed inside the language model")
    if free:
        notes.append(f"{_methods(free)}: without a budget, as its options and the images decide")
    for row in off:
        notes.append(
            f"{name_of(row)}: {row['budget_evaluated']:.1f} tokens where the budget asked for "
            f"{row['target']:g}"
        )
    return notes


def _fewer_inside(row: Row) -> bool:
    return bool(row["llm_layer_mean"] < 0.999 * row["handed_to_llm"])


def _misses(row: Row) -> bool:
    reached = row["budget_evaluated"]
    return present(reached) and bool(abs(reached - row["target"]) > 0.02 * row["target"])


def _methods(rows: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(row["method"] for row in rows))


def task_tables(title: str, rows: list[Row]) -> list[Sheet]:
    """The tasks of every method beside the unpruned model's, and work by part."""
    done = [row for row in rows if part(row, "tasks")]
    pruned = [row for row in done if row["method"] != "none"]
    return [_tasks(title, row) for row in pruned or done] + ([_work(title, done)] if done else [])


def _tasks(title: str, row: Row) -> Sheet:
    tasks, found = part(row, "tasks"), part(row, "analysis")
    lines: list[list[str | Cell]] = [[*_line(name, block)] for name, block in tasks.items()]
    average, before = found["avg"], found.get("avg_baseline")
    change = None if before is None else average - before
    both = [number(before, "{:.2f}"), f"{average:.2f}", number(change, "{:+.2f}")]
    lines.append(["Avg", DASH, "mean of the tasks, MME over 2000, %", *both, DASH, DASH])
    if "rel" in found:
        for label, short, key in (
            ("Avg in % of none's, both rounded first", "Rel %", "rel"),
            ("mean of the tasks' ratios, %", "mean of ratios %", "rel_of_ratios"),
        ):
            value = number(found[key], "{:.1f}")
            cell = Cell("Rel", brief=short)
            lines.append([cell, DASH, label, DASH, value, DASH, DASH, DASH])
    name = name_of(row)
    sheet = sheet_of_text(
        f"{title.split(' · ')[0]} · {name}",
        ["task", Head("split", kind="text", wide=True), Head("metric", kind="text", wide=True)],
        lines,
        numbers=["unpruned", row["method"], "Δ [95 %]", Head("McNemar p", wide=True), "n"],
        notes=[f"{name}: {block['scorer']}" for name, block in tasks.items()],
    )
    return replace(sheet, short_notes=()).without_empty_columns()


def _line(name: str, block: Mapping[str, Any]) -> list[str]:
    change = DASH
    if "delta" in block:
        low, high = block["delta_ci95"]
        change = f"{block['delta']:+.2f} [{low:+.2f}, {high:+.2f}]"
    lost = f" ({block['failed']} failed)" if block["failed"] else ""
    before = number(block.get("baseline"), "{:.2f}")
    own = f"{block['score']:.2f}"
    return [
        *(name, block["split"], block["metric"], before, own, change),
        number(block.get("mcnemar_p"), "{:.3f}"),
        f"{block['n']}{lost}",
    ]


def _work(title: str, rows: list[Row]) -> Sheet:
    parts = {name_of(row): part(row, "analysis")["macs_by_part_g"] for row in rows}
    return sheet_of_text(
        f"{title.split(' · ')[0]} · GMACs per question",
        [Head("method", kind="text", shortens=True)],
        [[name, *(f"{found[kind]:.3f}" for kind in PARTS)] for name, found in parts.items()],
        numbers=["tower", "projector", "prefill", "decoding", "method's own"],
        notes=["decoding depends on how long the answers are; the tables above leave it out"],
    )
