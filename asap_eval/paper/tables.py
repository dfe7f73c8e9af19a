"""Reads the paper's tables; every figure can be cited by table, section and row."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from asap_eval.errors import BadValueError, unknown

FOLDER = Path(__file__).resolve().parent / "tables"

TITLES = {
    "1": "token reduction on ImageNet-1K",
    "2": "a random anchor against the sink",
    "3": "Kinetics-400 with a CLIP ViT-L",
    "4": "latency of LLaVA-1.5 on POPE",
    "5": "LLaVA-1.5 on seven benchmarks",
    "6": "LLaVA-NeXT on six benchmarks",
    "7": "what the walk over all blocks costs",
    "8": "latency of LLaVA-NeXT on POPE",
    "9": "cost of LLaVA-NeXT stage by stage",
    "10": "composition of the method on LLaVA-1.5",
    "11": "anchors on LLaVA-NeXT",
    "alpha": "the share of attention in a step of the walk",
}
"""What each table is about, in our words."""

TABLES = tuple(TITLES)
"""Names of the paper's tables, in its order; ``alpha`` is the sweep of its Appendix J."""

LABELS = ("section", "row")


@dataclass(frozen=True)
class PaperRow:
    """One row as printed.

    Attributes:
        section: block of rows, empty where the table has none. row: its label.
        printed: by column; empty where the paper prints a dash.
    """

    section: str
    row: str
    printed: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.section}: {self.row}" if self.section else self.row

    def value(self, column: str) -> float | None:
        """A figure; None where the paper has none, or words."""
        try:
            return float(self.printed.get(column, ""))
        except ValueError:
            return None


@dataclass(frozen=True)
class PaperTable:
    """One table: its name (``1`` … ``11``, ``alpha``), columns of figures and rows."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]

    @property
    def label(self) -> str:
        return "Appendix J" if self.name == "alpha" else f"Table {self.name}"

    @property
    def title(self) -> str:
        return TITLES[self.name]

    @property
    def experiment(self) -> str:
        """Name of the experiment file whose rows are this table's."""
        return "alpha" if self.name == "alpha" else f"table{self.name}"

    @property
    def sections(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.section for row in self.rows))

    def row(self, row: str, section: str | None = None) -> PaperRow:
        """A row by its label; the section only where the label stands in several.

        Raises:
            UnknownNameError: there is none. BadValueError: there are several.
        """
        found = [r for r in self.rows if r.row == row and section in (None, r.section)]
        if not found:
            given = f"{section}: {row}" if section is not None else row
            raise unknown(f"row of {self.label}", given, [r.name for r in self.rows])
        if len(found) > 1:
            raise BadValueError(
                f"{self.label} has '{row}' in {len(found)} sections: give section, one of "
                f"{', '.join(r.section for r in found)}."
            )
        return found[0]


@dataclass(frozen=True)
class Fact:
    """A figure with its source: of the paper's text (`claims`), or of others (`facts`)."""

    name: str
    about: str
    value: float
    unit: str
    source: str


@cache
def paper_table(name: str) -> PaperTable:
    """A table by its name.

    Raises:
        UnknownNameError: the paper has no such table.
    """
    if name not in TABLES:
        raise unknown("table of the paper", name, TABLES)
    lines = _lines("alpha" if name == "alpha" else f"table{name}")
    columns = tuple(column for column in lines[0] if column not in LABELS)
    rows = [
        PaperRow(line["section"], line["row"], {column: line[column] for column in columns})
        for line in lines
    ]
    return PaperTable(name, columns, tuple(rows))


@cache
def claims() -> dict[str, Fact]:
    """Figures that the paper gives only in its text or its plots, by name."""
    return _facts("claims")


@cache
def facts() -> dict[str, Fact]:
    """Figures of others, by name."""
    return _facts("facts")


def _facts(file: str) -> dict[str, Fact]:
    return {
        line["name"]: Fact(
            line["name"], line["about"], float(line["value"]), line["unit"], line["source"]
        )
        for line in _lines(file)
    }


def _lines(file: str) -> list[dict[str, str]]:
    with (FOLDER / f"{file}.csv").open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))
