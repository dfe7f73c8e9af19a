"""Columns of a layout, what they show of a row, and a sheet of the rows laid out in them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from asap_eval.method import methods
from asap_eval.report.sheet import DASH, Cell, Head, Kind, Line, Sheet

Row = dict[Hashable, Any]
BELOW = "▼"
"""Mark of a method below random at the same budget."""

LONG = 8
"""Entries from which a list is shown by its runs."""


@dataclass(frozen=True)
class Column:
    """A head, with its unit, and how a row of the frame fills the cell.

    Attributes:
        wide: for tables of all columns alone. brief: what stands in its place in the others.
        measured: empty where a row failed or did not run, which those others say in its cell.
        shortens: those others may cut its cells where a terminal lacks room.
    """

    head: str
    cell: Callable[[Row], str]
    kind: Kind = "number"
    wide: bool = False
    brief: Column | None = None
    measured: bool = True
    shortens: bool = False


def present(value: Any) -> bool:
    """Whether a cell of the frame holds something."""
    return value is not None and not pd.isna(value)


def number(value: Any, form: str) -> str:
    """A number in a format, or a dash."""
    return form.format(value) if present(value) else DASH


def text(value: Any) -> str:
    """Text, or a dash."""
    return str(value) if present(value) else DASH


def first_sentence(why: str) -> str:
    """Of an error, without its full stop; the rest is advice."""
    return why.split(". ")[0].rstrip(".")


def part(row: Row, name: str) -> dict[str, Any]:
    """A block of the record, such as ``analysis``; empty where the run did not come to one."""
    return json.loads(row[name]) if present(row[name]) else {}


def counted_notes(rows: Iterable[Row]) -> list[str]:
    """What methods counted, a line each, where it is not 0."""
    return [
        f"{name_of(row)}: {found['total']} {found['says']}, in {found['samples']} of {found['of']} "
        "samples"
        for row in rows
        for found in part(row, "counted").values()
        if found["total"]
    ]


def numbers(row: Row, form: str, *names: str) -> str:
    """Several columns in one format with one ``{}`` each, or a dash where the first is missing."""
    values = [row[name] for name in names]
    return form.format(*values) if all(map(present, values)) else DASH


def settings(row: Row) -> str:
    """The knob, every option that is not at its default, and the seed where it is not 0; what is
    no part of the published method is said to be ours."""
    parts = [f"k={row['k']:.4g}"] if present(row["k"]) else []
    given = json.loads(row["options"]).items()
    parts += [_marked(row["method"], f"{name}={_short(value)}") for name, value in given]
    parts += [f"seed={row['seed']}"] if row["seed"] else []
    return " ".join(parts) or DASH


def _marked(method: str, setting: str) -> str:
    cls = methods().get(method)
    return f"{setting} (ours)" if cls and setting.startswith(cls.card.ours) else setting


def _short(value: Any) -> Any:
    """A long list, such as a schedule, by its runs: 20 x 11, 19 x 12."""
    if not isinstance(value, list) or len(value) < LONG:
        return value
    runs = [(item, len(list(same))) for item, same in itertools.groupby(value)]
    return "[" + ", ".join(f"{item} x {count}" for item, count in runs) + "]"


def name_of(row: Row) -> str:
    """Method and settings: what tells a row from the others of its table."""
    how = settings(row)
    return row["method"] if how == DASH else f"{row['method']} {how}"


def _method(row: Row) -> str:
    state = f" ({row['predictor']})" if present(row["predictor"]) else ""
    state += "" if row["status"] == "done" else f" ({row['status']})"
    return row["method"] + state + (f" {BELOW}" if row["below_random"] else "")


def _samples(row: Row) -> str:
    lost = f" ({row['failed']} failed)" if present(row["failed"]) and row["failed"] else ""
    return number(row["n"], "{:.0f}") + lost


def _lost_samples(row: Row) -> str:
    """How many there are stands in the title; a table of few columns says where some failed."""
    return _samples(row) if present(row["failed"]) and row["failed"] else DASH


def _fired(row: Row) -> str:
    if row["method"] == "none" or not present(row["fired_never"]):
        return DASH
    return f"{number(row['fired_mean'], '{:.2f}')} ({row['fired_never']})"


COUNTED = {"handed": "handed", "layer_mean": "mean of layers"}
"""How a table says which tokens a budget counts."""


def _budget(row: Row) -> str:
    if not present(row["target"]):
        return DASH
    unit = " %" if row["budget"] == "macs" else ""
    count = f" ({COUNTED[row['budget_count']]})" if present(row["budget_count"]) else ""
    reached = numbers(
        row, " → {:.1f} [{:.1f}, {:.1f}]", "budget_evaluated", "budget_low", "budget_high"
    )
    reached = "" if reached == DASH else reached
    return f"{row['budget']}{count} {row['target']:g}{reached}{unit}"


def _name(row: Row) -> str:
    """The method alone: its cells say that it failed, and a state of its own stays."""
    return _method(row if row["status"] == "running" else {**row, "status": "done"})


METHOD = Column("method", _method, "text", brief=Column("method", _name))
SETTINGS = Column("settings", settings, "text", shortens=True)
SAMPLES = Column("n", _samples, brief=Column("n", _lost_samples), measured=False)
GMACS = Column(
    "GMACs: model + own",
    lambda row: numbers(row, "{:.3f} + {:.3f}", "mean_g", "method_g"),
    wide=True,
)
CHANGE = Column(
    "MACs %: all (model)",
    lambda row: numbers(row, "{:+.1f} ({:+.1f})", "reduction_pct", "reduction_model_pct"),
    brief=Column("MACs %", lambda row: number(row["reduction_pct"], "{:+.1f}")),
)
KEPT = Column(
    "kept: min / median / mean / max",
    lambda row: numbers(
        row,
        "{:.0f} / {:g} / {:.1f} / {:.0f}",
        "kept_min",
        "kept_median",
        "kept_mean",
        "kept_max",
    ),
    wide=True,
)


def speedup(head: str, name: str) -> Column:
    """A speed-up with its percentiles: the frame's ``name``, ``name_p10`` and ``name_p90``."""
    return Column(
        f"{head} [p10, p90]",
        lambda row: numbers(row, "{:.3f} [{:.3f}, {:.3f}]", name, f"{name}_p10", f"{name}_p90"),
        brief=Column(head, lambda row: number(row[name], "{:.3f}")),
    )


IDEAL = Column("share of ideal", lambda row: number(row["share_of_ideal"], "{:.3f}"), wide=True)
FIRED = Column("fired at block (never)", _fired, wide=True)
LLM_COST = (
    Column(
        "tokens handed to the LLM",
        lambda row: number(row["handed_to_llm"], "{:.1f}"),
        brief=Column("tokens", lambda row: number(row["handed_to_llm"], "{:.0f}")),
    ),
    Column(
        "mean over its layers",
        lambda row: number(row["llm_layer_mean"], "{:.1f}"),
        brief=Column("mean", lambda row: number(row["llm_layer_mean"], "{:.1f}")),
    ),
    Column(
        "KV-cache entries (% of unpruned)",
        lambda row: numbers(row, "{:.0f} ({:.1f})", "cached_entries", "cached_pct"),
        brief=Column("KV %", lambda row: number(row["cached_pct"], "{:.1f}")),
    ),
)
"""What the language model gets of an image, by the counts that are in use: at its first layer, in a
layer on average, and in the caches of all layers, where the prompt's text counts too."""
BUDGET = Column("budget: target → reached [95 %]", _budget, wide=True)


def laid_out(
    title: str,
    layout: Sequence[Column],
    rows: Sequence[Row],
    *,
    notes: Iterable[str] = (),
    short_notes: Iterable[str] | None = None,
    commands: Sequence[tuple[str, ...]] = (),
) -> Sheet:
    """Rows of the frame in a layout; columns that none of them fills are left out.

    Args:
        short_notes: those of a table of few columns; None = the same.
        commands: behind each row; empty = behind none.
    """
    return Sheet(
        title=title,
        columns=tuple(_head(column) for column in layout),
        rows=tuple(
            Line(tuple(_cell(column, row) for column in layout), commands=made, name=name_of(row))
            for row, made in zip(rows, commands or [()] * len(rows), strict=True)
        ),
        footnotes=tuple(notes),
        short_notes=None if short_notes is None else tuple(short_notes),
        holds="composed",
    ).without_empty_columns()


def _head(column: Column) -> Head:
    brief = column.brief.head if column.brief else ""
    return Head(
        column.head, kind=column.kind, wide=column.wide, brief=brief, shortens=column.shortens
    )


def _cell(column: Column, row: Row) -> Cell:
    whole = column.cell(row)
    brief = column.brief.cell(row) if column.brief else whole
    if brief == DASH and column.kind == "number" and column.measured:
        brief = _without_figures(row) or DASH
    return Cell(whole, brief="" if brief == whole else brief)


def _without_figures(row: Row) -> str:
    """What became of a row that has no record, or a failed one; empty of all others."""
    if row["status"] == "failed":
        return "failed"
    return text(row["verdict"]).partition(":")[0] if row.get("seeds") == 0 else ""
