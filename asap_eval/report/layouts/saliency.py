"""Layout of ``bench=saliency``: what a method keeps of the foreground, and where sinks lie."""

from __future__ import annotations

from typing import Any

from asap_eval.report.layouts.columns import (
    BUDGET,
    CHANGE,
    FIRED,
    KEPT,
    METHOD,
    SAMPLES,
    SETTINGS,
    Column,
    Row,
    number,
    part,
)
from asap_eval.report.sheet import DASH, Sheet, sheet_of_text


def _interval(found: dict[str, Any], name: str, form: str) -> str:
    """A mean and its 95 % interval."""
    if found.get(name) is None:
        return DASH
    low, high = found[f"{name}_ci95"]
    return f"{found[name]:{form}} [{low:{form}}, {high:{form}}]"


def _removal(row: Row) -> str:
    found = part(row, "analysis")
    if not found:
        return DASH
    parts = [found[name] for name in ("background_pooled", "background_dropped")]
    return f"{found['background_removal']:.3f} ({parts[0]:.3f} + {parts[1]:.3f})"


def _sink(row: Row) -> str:
    found = part(row, "analysis")
    if found.get("sink_on_foreground") is None:
        return DASH
    where = _interval(found, "sink_on_foreground", ".3f")
    return f"{where} ({found['sink_base_rate']:.3f}), {found['sink_images']}"


def _mean(name: str, row: Row) -> str:
    return number(part(row, "analysis").get(name), "{:.3f}")


SALIENCY = [
    METHOD,
    SETTINGS,
    SAMPLES,
    Column("foreground recall", lambda row: _mean("foreground_recall", row)),
    Column(
        "background removal (pooled + dropped)",
        _removal,
        brief=Column("background removal", lambda row: _mean("background_removal", row)),
    ),
    Column("J [95 %]", lambda row: _interval(part(row, "analysis"), "youden_j", "+.3f")),
    Column("sink on foreground [95 %] (base rate), images", _sink, wide=True),
    Column("keep rate", lambda row: _mean("keep_rate", row)),
    CHANGE,
    KEPT,
    FIRED,
    BUDGET,
]


def sink_tables(title: str, rows: list[Row]) -> list[Sheet]:
    """Where attention gathers in the unpruned model, block by block; none where it was not run."""
    tables = []
    for row in rows:
        found = part(row, "analysis")
        if "blocks" not in found:
            continue
        kinds = [f"{kind}_on_foreground" for kind in ("heaviest", "cls")]
        tables.append(
            sheet_of_text(
                f"{title} · sinks of the unpruned model",
                ["block"],
                [
                    [str(block["block"]), *(_interval(block, kind, ".3f") for kind in kinds)]
                    for block in found["blocks"]
                ],
                numbers=[
                    "heaviest column of C on foreground [95 %]",
                    "largest of C's class row on foreground [95 %]",
                ],
                notes=[f"a random patch: {found['base_rate']:.3f}"],
            ).without_empty_columns()
        )
    return tables
