"""The overview: every record of a folder, one table for each group that may be compared.

A layout is a list of columns: a head, and a function from a row of the frame to the text of a cell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asap_eval.record import Job, RunRecord
from asap_eval.report.frame import GROUP, frame, row_without_record
from asap_eval.report.layouts.accuracy import ACCURACY
from asap_eval.report.layouts.columns import (
    BELOW,
    Column,
    Row,
    counted_notes,
    first_sentence,
    laid_out,
    name_of,
    number,
    present,
    settings,
    text,
)
from asap_eval.report.layouts.keepmaps import KEEPMAPS
from asap_eval.report.layouts.kinetics import KINETICS
from asap_eval.report.layouts.latency import LATENCY
from asap_eval.report.layouts.saliency import SALIENCY, sink_tables
from asap_eval.report.layouts.vlm import VLM, task_tables, unequal_counts
from asap_eval.report.layouts.walk import WALK, block_tables
from asap_eval.report.sheet import Sheet

LAYOUTS: dict[str, Sequence[Column]] = {
    "keepmaps": KEEPMAPS,
    "kinetics": KINETICS,
    "latency": LATENCY,
    "saliency": SALIENCY,
    "vlm": VLM,
    "walk": WALK,
}
"""Layout of each benchmark that has its own; the others show accuracy."""

COMPARED = ("kinetics",)
"""Those of them that show accuracy too, which an experiment sets beside published figures."""

MORE: dict[str, Callable[[str, list[Row]], list[Sheet]]] = {
    "saliency": sink_tables,
    "vlm": task_tables,
    "walk": block_tables,
}
"""What a benchmark shows below its table, from the title and the rows of that."""


def overview(
    records: Sequence[RunRecord],
    beside: Mapping[str, Row] | None = None,
    lost: Sequence[tuple[Job, str]] = (),
) -> list[Sheet]:
    """A table for each model, benchmark, data, weights and precision; empty columns left out.

    Args:
        beside: further columns of a row by its record's key, such as published figures; rows with a
            ``place`` stand in that order.
        lost: jobs of the same command that left no record, and why: a row each in the first table
            of their model and benchmark.
    """
    if not records:
        return []
    groups = frame(records).groupby(GROUP, dropna=False, sort=False)
    more = beside or {}
    tables = []
    left = [row_without_record(job, why) for job, why in lost]
    for _, group in groups:
        rows = [row | more.get(row["key"], {}) for row in group.to_dict("records")]
        rows = sorted(rows, key=lambda row: row.get("place", -1))
        here = [row for row in left if all(row[n] == rows[0][n] for n in ("model", "bench"))]
        left = [row for row in left if row not in here]
        tables += _tables(rows + here)
    return tables


def _tables(rows: list[Row]) -> list[Sheet]:
    bench, title = rows[0]["bench"], title_of(rows[0])
    more = MORE[bench](title, rows) if bench in MORE else []
    first = laid_out(
        title,
        layout_of(bench),
        rows,
        notes=_notes(rows),
        short_notes=_notes(rows, short=True),
        commands=[(row["command"],) for row in rows],
    )
    return [first, *more]


def layout_of(bench: str) -> Sequence[Column]:
    """The columns of a benchmark's table."""
    return LAYOUTS.get(bench, ACCURACY)


def title_of(first: Row) -> str:
    """What the rows of a group have in common, from any of them."""
    title = f"{first['model']} · {first['bench']} · {first['data_name']}"
    title += f" · {number(first['n'], '{:.0f}')} samples · {first['dtype']}"
    params = json.loads(first["bench_params"])
    given = {name: value for name, value in params.items() if value not in (None, [])}
    if first["macs_convention"] != "full":
        given["macs_convention"] = first["macs_convention"]
    texts = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in given.items()}
    return title + "".join(f" · {name}={value}" for name, value in texts.items())


def _notes(rows: list[Row], *, short: bool = False) -> list[str]:
    """Lines below a table; in short an error is its first sentence."""
    notes = []
    if any(present(row["trained"]) and not row["trained"] for row in rows):
        notes.append("random weights, not comparable")
    if any(row["below_random"] for row in rows):
        notes.append(f"{BELOW} below random patches at the same budget")
    for row in rows:
        if row["status"] == "failed":
            why = text(row["error"])
            notes.append(f"{name_of(row)} failed: {first_sentence(why) if short else why}")
    notes += unequal_counts(rows) + counted_notes(rows)
    return notes + data_notes(rows) + _seeds(rows)


def data_notes(rows: Sequence[Row]) -> list[str]:
    """What the rows' records say of their samples."""
    return sorted({row["data_notes"] for row in rows if present(row["data_notes"])} - {""})


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
