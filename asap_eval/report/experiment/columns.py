"""Columns of an experiment's table: those of the overview, with the published figures between."""

from __future__ import annotations

from collections.abc import Sequence

from asap_eval.report.layouts.columns import Column, Row, number, numbers, present, settings, text
from asap_eval.report.sheet import DASH


def _settings(row: Row) -> str:
    if row["seeds_asked"] == 1:
        return settings(row)
    ran, asked = row["seeds"], row["seeds_asked"]
    seeds = f"{asked} seeds" if ran in (0, asked) else f"{ran} of {asked} seeds"
    given = settings({**row, "seed": 0})
    return seeds if given == DASH else f"{given} · {seeds}"


def _top1(row: Row) -> str:
    spread = numbers(row, " ({:.2f} to {:.2f})", "top1_least", "top1_most")
    return number(row["top1"], "{:.2f}") + ("" if spread == DASH else spread)


def _published(row: Row) -> str:
    both = numbers(row, " ({:.2f} → {:.2f})", "published_baseline", "published_acc")
    if both != DASH:
        return number(row["published_change"], "{:+.2f}") + both
    return number(row["published_acc"], "{:.2f}")


def _speed(row: Row) -> str:
    parts = [
        number(row["published_throughput"], "{:+.2f} %"),
        number(row["published_img_s"], "{:g} img/s"),
    ]
    return " · ".join(part for part in parts if part != DASH) or DASH


def _work(row: Row) -> str:
    if present(row["published_gmacs"]):
        return number(row["published_gmacs"], "{:g} G")
    return number(row["published_macs"], "{:+.2f} %")


PUBLISHED = {
    "settings": [Column("verdict", lambda row: text(row["verdict"]), "verdict")],
    "Δ [95 %]": [
        Column("published Δ", _published),
        Column("measured − published", lambda row: number(row["difference"], "{:+.2f}")),
    ],
    "MACs %: all (model)": [
        Column(
            "MACs % as the paper counts",
            lambda row: numbers(row, "{:+.2f} ({:+.2f})", "paper_pct", "paper_model_pct"),
        ),
        Column("published MACs", _work),
    ],
    "share of ideal": [Column("published throughput", _speed)],
}
"""Columns by the head of the one they follow."""

SETTINGS_OF_SEEDS = Column("settings", _settings, "text")

OWN = {"settings": SETTINGS_OF_SEEDS, "top-1 %": Column("top-1 %", _top1)}
"""Columns that know of several seeds, in place of the overview's."""


def experiment_layout(layout: Sequence[Column]) -> list[Column]:
    """A layout of accuracies for an experiment's rows in order: measured beside published."""
    columns = [Column("row of the paper", lambda row: text(row["published_row"]), "text")]
    for column in layout:
        columns += [OWN.get(column.head, column), *PUBLISHED.get(column.head, [])]
    return columns
