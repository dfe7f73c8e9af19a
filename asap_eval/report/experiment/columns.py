"""Columns of an experiment's table: those of the overview, with the published figures between."""

from __future__ import annotations

from collections.abc import Sequence

from asap_eval.report.experiment.beside import Beside
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


def _published_change(row: Row) -> str:
    return number(row["published_change"], "{:+.2f}")


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


VERDICT = Column(
    "verdict",
    lambda row: text(row["verdict"]),
    "verdict",
    brief=Column("verdict", lambda row: text(row["verdict"]).partition(":")[0]),
)
"""Why a row did not run stands below a table of few columns."""

PUBLISHED = {
    "settings": [VERDICT],
    "Δ [95 %]": [
        Column(
            "published Δ",
            _published,
            brief=Column("published Δ", _published_change),
            measured=False,
        ),
        Column("measured − published", lambda row: number(row["difference"], "{:+.2f}"), wide=True),
    ],
    "MACs %: all (model)": [
        Column(
            "MACs % as the paper counts",
            lambda row: numbers(row, "{:+.2f} ({:+.2f})", "paper_pct", "paper_model_pct"),
            wide=True,
        ),
        Column("published MACs", _work, wide=True),
    ],
    "share of ideal": [Column("published throughput", _speed, wide=True)],
}
"""Columns by the head of the one they follow."""

SETTINGS_OF_SEEDS = Column("settings", _settings, "text", shortens=True)
ROW_OF_PAPER = Column("row of the paper", lambda row: text(row["published_row"]), "text", wide=True)

TOP1 = Column("top-1 %", _top1, brief=Column("top-1 %", lambda row: number(row["top1"], "{:.2f}")))

OWN = {"settings": SETTINGS_OF_SEEDS, "top-1 %": TOP1}
"""Columns that know of several seeds, in place of the overview's."""


def experiment_layout(layout: Sequence[Column], beside: Beside | None = None) -> list[Column]:
    """A layout of accuracies for an experiment's rows in order: measured beside published.

    Args:
        beside: the same rows on other images, in a column behind theirs.
    """
    columns = [ROW_OF_PAPER]
    for column in layout:
        columns.append(OWN.get(column.head, column))
        if beside is not None and column.head == "Δ [95 %]":
            columns.append(beside.column)
        columns += PUBLISHED.get(column.head, [])
    return columns
