"""The overview: every record of a folder, one table for each group that may be compared.

A layout is a list of columns, each a head and a function from a row of the frame to a cell; a table
of a paper is another layout over the same frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from asap_eval.record import RunRecord
from asap_eval.report.frame import GROUP, frame
from asap_eval.report.render import DASH, Table

Row = dict[Hashable, Any]
BELOW = "▼"
"""Mark of a method below random at the same budget."""


@dataclass(frozen=True)
class Column:
    """A head, with its unit, and how a row of the frame fills the cell."""

    head: str
    cell: Callable[[Row], str]


def overview(records: Sequence[RunRecord]) -> list[Table]:
    """A table for each model, benchmark, data, weights and precision; empty columns left out."""
    if not records:
        return []
    groups = frame(records).groupby(GROUP, dropna=False, sort=False)
    return [_table(rows.to_dict("records")) for _, rows in groups]


def _table(rows: list[Row]) -> Table:
    first = rows[0]
    title = f"{first['model']} · {first['bench']} · {first['data']}"
    title += f" · {number(first['n'], '{:.0f}')} samples · {first['dtype']}"
    return Table(
        title=title,
        columns=[column.head for column in OVERVIEW],
        rows=[[column.cell(row) for column in OVERVIEW] for row in rows],
        notes=_notes(rows),
        details=[(name_of(row), row["command"]) for row in rows],
        numbers_from=2,
    ).without_empty_columns()


def _notes(rows: list[Row]) -> list[str]:
    notes = []
    if any(present(row["trained"]) and not row["trained"] for row in rows):
        notes.append("random weights, not comparable")
    if any(row["below_random"] for row in rows):
        notes.append(f"{BELOW} below random patches at the same budget")
    for row in rows:
        if row["status"] == "failed":
            notes.append(f"{name_of(row)} failed: {text(row['error'])}")
    return notes + _seeds(rows)


def _seeds(rows: list[Row]) -> list[str]:
    """Mean and spread of rows that differ in nothing but their seed."""
    same: dict[tuple[Any, ...], list[float]] = {}
    labels: dict[tuple[Any, ...], str] = {}
    for row in rows:
        if present(row["top1"]):
            name = tuple(str(row[c]) for c in ("method", "k", "options", "budget", "target"))
            same.setdefault(name, []).append(row["top1"])
            labels[name] = settings({**row, "seed": 0})
    return [
        f"{name[0]} {labels[name]}, {len(found)} seeds: top-1 {sum(found) / len(found):.2f} "
        f"({min(found):.2f} to {max(found):.2f})"
        for name, found in same.items()
        if len(found) > 1
    ]


def present(value: Any) -> bool:
    """Whether a cell of the frame holds something."""
    return value is not None and not pd.isna(value)


def number(value: Any, form: str) -> str:
    """A number in a format, or a dash."""
    return form.format(value) if present(value) else DASH


def text(value: Any) -> str:
    """Text, or a dash."""
    return str(value) if present(value) else DASH


def numbers(row: Row, form: str, *names: str) -> str:
    """Several columns in one format with one ``{}`` each, or a dash where the first is missing."""
    values = [row[name] for name in names]
    return form.format(*values) if all(map(present, values)) else DASH


def settings(row: Row) -> str:
    """The knob, every option that is not at its default, and the seed where it is not 0."""
    parts = [f"k={row['k']:.4g}"] if present(row["k"]) else []
    parts += [f"{name}={value}" for name, value in json.loads(row["options"]).items()]
    parts += [f"seed={row['seed']}"] if row["seed"] else []
    return " ".join(parts) or DASH


def name_of(row: Row) -> str:
    """The method and its settings in one line."""
    given = settings(row)
    return row["method"] if given == DASH else f"{row['method']} {given}"


def _method(row: Row) -> str:
    state = "" if row["status"] == "done" else f" ({row['status']})"
    return row["method"] + state + (f" {BELOW}" if row["below_random"] else "")


def _p(row: Row) -> str:
    p = row["mcnemar_p"]
    return "<0.001" if present(p) and p < 0.001 else number(p, "{:.3f}")


def _samples(row: Row) -> str:
    lost = f" ({row['failed']} failed)" if present(row["failed"]) and row["failed"] else ""
    return number(row["n"], "{:.0f}") + lost


def _fired(row: Row) -> str:
    if row["method"] == "none" or not present(row["fired_never"]):
        return DASH
    return f"{number(row['fired_mean'], '{:.2f}')} ({row['fired_never']})"


def _budget(row: Row) -> str:
    if not present(row["target"]):
        return DASH
    unit = " %" if row["budget"] == "macs" else ""
    reached = numbers(
        row, " → {:.1f} [{:.1f}, {:.1f}]", "budget_evaluated", "budget_low", "budget_high"
    )
    return f"{row['budget']} {row['target']:g}" + ("" if reached == DASH else reached) + unit


OVERVIEW = [
    Column("method", _method),
    Column("settings", settings),
    Column("n", _samples),
    Column("top-1 %", lambda row: number(row["top1"], "{:.2f}")),
    Column(
        "Δ [95 %]",
        lambda row: numbers(
            row, "{:+.2f} [{:+.2f}, {:+.2f}]", "delta_top1", "delta_low", "delta_high"
        ),
    ),
    Column("McNemar p", _p),
    Column("GMACs: model + own", lambda row: numbers(row, "{:.3f} + {:.3f}", "mean_g", "method_g")),
    Column(
        "MACs %: all (model)",
        lambda row: numbers(row, "{:+.1f} ({:+.1f})", "reduction_pct", "reduction_model_pct"),
    ),
    Column(
        "kept: min / median / mean / max",
        lambda row: numbers(
            row,
            "{:.0f} / {:g} / {:.1f} / {:.0f}",
            "kept_min",
            "kept_median",
            "kept_mean",
            "kept_max",
        ),
    ),
    Column("fired at block (never)", _fired),
    Column(
        "img/s: fused / matched / method",
        lambda row: numbers(
            row, "{:.1f} / {:.1f} / {:.1f}", "fused_img_s", "matched_img_s", "method_img_s"
        ),
    ),
    Column(
        "speed-up [p10, p90]",
        lambda row: numbers(
            row, "{:.3f} [{:.3f}, {:.3f}]", "speedup", "speedup_p10", "speedup_p90"
        ),
    ),
    Column("share of ideal", lambda row: number(row["share_of_ideal"], "{:.3f}")),
    Column("budget: target → reached [95 %]", _budget),
]
