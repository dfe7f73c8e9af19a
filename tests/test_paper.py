"""The paper as data: complete, cited by experiments without a slip."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from project import ROOT

from asap_eval.errors import BadValueError, UnknownNameError
from asap_eval.experiment import load, parse
from asap_eval.paper import COLUMNS, TABLES, claims, facts, paper_table
from asap_eval.report.paper.cited_row import cited_row, contradictions

FILES = {
    "1": "imagenet.csv",
    "2": "anchor_imagenet.csv",
    "3": "kinetics400.csv",
    "4": "latency_llava15_pope.csv",
    "5": "llava15.csv",
    "6": "llava_next.csv",
    "7": "accumulation_overhead.csv",
    "8": "latency_llava_next_pope.csv",
    "9": "modular_cost_llava_next.csv",
    "10": "modular_composition_llava15.csv",
    "11": "anchor_llava_next.csv",
    "alpha": "alpha_deit_base.csv",
}
"""The same tables as they lie beside the checkout."""

EXPERIMENTS = [
    name
    for name in TABLES
    if (ROOT / "conf" / "experiment" / f"{paper_table(name).experiment}.yaml").is_file()
]


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_told_apart_and_every_column_is_known(name: str) -> None:
    table = paper_table(name)
    assert len({(row.section, row.row) for row in table.rows}) == len(table.rows)
    assert set(table.columns) <= set(COLUMNS)
    assert any(row.value(column) is not None for row in table.rows for column in table.columns)
    for row in table.rows:
        assert table.row(row.row, row.section) is row


@pytest.mark.golden("paper/*.csv")
@pytest.mark.parametrize("name", TABLES)
def test_figures_are_those_of_the_shared_tables(name: str, shared: Path) -> None:
    table = paper_table(name)
    with (shared / "paper" / FILES[name]).open(encoding="utf-8", newline="") as text:
        lines = list(csv.DictReader(text))
    figures = [[line[column] for column in table.columns] for line in lines]
    assert [list(row.printed.values()) for row in table.rows] == figures


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_published_row_of_an_experiment_is_a_row_of_the_paper(name: str) -> None:
    """Of its own table, or of the one that its figures are taken from (Table 11's full model)."""
    entries = [e for e in load(paper_table(name).experiment).entries if e.published]
    assert any(cited_row(entry, paper_table(name)) for entry in entries)
    for entry in entries:
        places = [(cited_row(entry, table), table) for table in map(paper_table, TABLES)]
        found = [row for row, _ in places if row is not None]
        assert found, f"{entry.published} is no row of the paper"
        assert entry.published is not None
        assert contradictions(entry.published, found[0]) == []


def test_a_row_cites_its_figures() -> None:
    rows = [{"method": "tome", "published": {"table": 1, "section": "DeiT-Tiny", "row": "ToMe"}}]
    (entry,) = parse("mine", {"rows": rows}).entries
    published = entry.published
    assert published is not None
    assert (published.baseline, published.acc, published.change) == (72.2, 71.15, -1.05)
    assert (published.macs, published.throughput) == (-38.46, 17.58)


@pytest.mark.parametrize(
    ("published", "error", "says"),
    [
        ({"table": 12, "row": "ToMe"}, UnknownNameError, "table of the paper '12'"),
        ({"table": 1, "row": "ToMe"}, BadValueError, "in 5 sections: give section"),
        (
            {"table": 3, "row": "Tome"},
            UnknownNameError,
            "row of Table 3 .Tome.. Available: ClipViT-Large",
        ),
        ({"table": 3, "row": "ToMe", "acc": 78.18}, BadValueError, "published.acc stands in"),
    ],
)
def test_a_wrong_citation_is_refused(
    published: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        parse("mine", {"rows": [{"method": "tome", "published": published}]})


def test_a_figure_copied_wrongly_is_seen() -> None:
    given = {"row": "Random", "acc": 77.46}
    (entry,) = parse("mine", {"rows": [{"method": "asap", "published": given}]}).entries
    assert cited_row(entry, paper_table("2")) is None
    assert entry.published is not None
    assert contradictions(entry.published, paper_table("2").rows[0]) == [
        "acc: 77.46, printed 77.64"
    ]


def test_every_outside_figure_has_a_source() -> None:
    assert claims()
    assert all(fact.source and fact.unit for fact in (*facts().values(), *claims().values()))
