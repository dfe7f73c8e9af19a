"""Records to tables: what is shown, what is flagged, what is skipped; same records, same bytes."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from records import AT_35, baseline, make, put
from rich.console import Console
from sheets import cells, heads, texts

from asap_eval import record as rec
from asap_eval.cli.report import main
from asap_eval.cli.report.tables import render
from asap_eval.methods.parts.predictors import TRAINED
from asap_eval.report.layouts.overview import BELOW, overview
from asap_eval.report.sheet import DASH, Sheet, sheet_of_text
from asap_eval.report.text import show
from asap_eval.report.text.markdown import markdown
from asap_eval.report.text.terminal import print_rich


def test_cells_say_what_the_record_holds() -> None:
    found = rec.Calibration(
        2.25, -35.1, [-60, -1], 64, "d", True, 9, evaluated=-34.8, evaluated_ci95=[-35.6, -34.0]
    )
    speed = {
        "fused_img_s": 200.0,
        "matched_img_s": 190.0,
        "method_img_s": 240.0,
        "speedup": {"median": 1.2, "p10": 1.18, "p90": 1.23},
        "share_of_ideal": 0.931,
    }
    asap = make(params={"tau": 1.7}, budget=AT_35, calibration=found, speed=speed, failed=2)
    (table,) = overview([asap, baseline()])

    none, row = cells(table, 0), cells(table, 1)
    assert table.title == "deit_tiny · imagenet · imagenet · 500 samples · float32"
    assert none["method"] == "none"
    assert none["top-1 %"] == "79.20"
    assert none["Δ [95 %]"] == none["fired at block (never)"] == none["share of ideal"] == DASH
    assert row == {
        "method": "asap",
        "settings": "k=2.25 tau=1.7",
        "n": "500 (2 failed)",
        "top-1 %": "70.00",
        "Δ [95 %]": "-9.20 [-11.60, -6.80]",
        "McNemar p": "<0.001",
        "GMACs: model + own": "1.050 + 0.043",
        "MACs %: all (model)": "-12.6 (-16.0)",
        "kept: min / median / mean / max": "7 / 150 / 141.2 / 192",
        "fired at block (never)": "5.52 (3)",
        "img/s: fused / matched / method": "200.0 / 190.0 / 240.0",
        "speed-up [p10, p90]": "1.200 [1.180, 1.230]",
        "share of ideal": "0.931",
        "budget: target → reached [95 %]": "macs -35 → -34.8 [-35.6, -34.0] %",
    }


def test_options_at_their_default_are_not_shown() -> None:
    (table,) = overview([make(params={"tau": 3.0, "alpha": 0.5, "reduce": "prune"}, k=4.0)])
    assert cells(table, 0)["settings"] == "k=4 reduce=prune"


def test_columns_nobody_filled_are_left_out() -> None:
    (table,) = overview([make()])
    assert "share of ideal" not in heads(table)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_numbers_do_not_wrap_on_a_narrow_terminal(width: int) -> None:
    (table,) = overview([make(params={"anchor": "random", "reduce": "prune"}), baseline()])
    text = io.StringIO()
    print_rich(table, Console(file=text, width=width))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for head, cell in zip(table.columns, texts(table)[1], strict=True):
        assert head.kind != "number" or any(cell in line for line in lines)
    assert sum(line.startswith("  asap ") for line in lines) == {80: 4, 100: 3, 160: 1}[width]


def printed(table: Sheet, width: int = 80, *, wide: bool = False) -> list[str]:
    """Lines of a terminal of some width."""
    text = io.StringIO()
    print_rich(table, Console(file=text, width=width), wide=wide)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_table_of_few_columns_fits_eighty_characters() -> None:
    speed = {"speedup": {"median": 1.2, "p10": 1.18, "p90": 1.23}, "share_of_ideal": 0.931}
    params = {"anchor": "random", "reduce": "prune", "tau": 1.7}
    (table,) = overview([make("zero_tprune", params=params, speed=speed), baseline()])
    lines = printed(table)
    assert max(map(len, lines)) <= 80
    head = next(line for line in lines if line.startswith(" method"))
    assert head.split("  ")[0].strip() == "method"
    for name in ("settings", "top-1 %", "Δ [95 %]", "MACs %", "speed-up"):
        assert name in head
    (row,) = [line for line in lines if line.startswith(" zero_tprune")]
    assert "…" in row
    for cell in ("70.00", "-9.20 [-11.60, -6.80]", "-12.6", "1.200"):
        assert cell in row
    assert not any(word in "\n".join(lines) for word in ("GMACs", "kept", "McNemar"))


@pytest.mark.parametrize("width", [100, 140, 240])
def test_settings_stand_whole_where_there_is_room(width: int) -> None:
    settings = "anchor=random reduce=prune"
    (table,) = overview([make(params={"anchor": "random", "reduce": "prune"}), baseline()])
    assert any(settings in line for line in printed(table, width))


def test_all_columns_stand_in_a_wide_table() -> None:
    (table,) = overview([make(params={"anchor": "random", "reduce": "prune"}), baseline()])
    shown = "\n".join(printed(table, wide=True))
    for head in table.columns:
        assert all(word in shown for word in head.full.split())
    assert "…" not in shown


def test_no_word_breaks_on_a_terminal() -> None:
    long = "a_schedule_of_more_than_thirty-two_characters"
    table = sheet_of_text("t", ["what", "where"], [[f"speed-up of {long}", "here " * 20]])
    beside = sheet_of_text("t", ["what"], [[f"of {long}", "1"]], numbers=["speed-up"])
    for sheet in (table, beside):
        for wide in (True, False):
            lines = printed(sheet, wide=wide)
            assert any(long in line for line in lines)
            assert max(map(len, lines)) <= 80
    note = sheet_of_text("t", ["a"], [["b"]], notes=["word " * 30])
    assert {word for line in printed(note)[5:] for word in line.split()} == {"word"}


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("140", 140), ("", 100), ("0", 100)])
def test_a_redirected_table_is_as_wide_as_columns_says(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    show([sheet_of_text("t", ["a"], [["word " * 100]])])
    lines = capsys.readouterr().out.splitlines()
    assert width - 5 < max(map(len, lines)) <= width


def test_a_table_says_how_to_see_its_other_columns(capsys: pytest.CaptureFixture[str]) -> None:
    sheets = overview([make(), baseline()])
    show(sheets)
    assert capsys.readouterr().out.splitlines()[-1] == "  wide=true shows every column and note."
    show(sheets, wide=True)
    show([sheet_of_text("t", ["a"], [["b"]])])
    assert "wide=true" not in capsys.readouterr().out


def test_a_row_without_a_record_stays_in_the_table() -> None:
    job = rec.Job("deit_tiny", "random", "imagenet", k=2.0)
    why = "k=2 is a share: give a value in (0, 1]. Any advice."
    (table,) = overview([make(), baseline()], lost=[(job, why)])
    assert [row[0] for row in texts(table)] == ["none", "asap", "random (failed)"]
    assert f"random k=2 failed: {why}" in table.notes()
    lines = printed(table)
    (row,) = [line.split() for line in lines if line.startswith(" random")]
    assert row == ["random", "k=2", "failed", "failed", "failed"]
    assert "  random k=2 failed: k=2 is a share: give a value in (0, 1]" in lines


def test_groups_are_apart_and_the_baseline_is_first() -> None:
    tables = overview([make(), make(model="deit_small"), baseline()])
    assert [table.title.split()[0] for table in tables] == ["deit_small", "deit_tiny"]
    assert [row[0] for row in texts(tables[1])] == ["none", "asap"]


@pytest.mark.parametrize(
    ("asap", "random", "flagged"),
    [
        ({"reduction_pct": -12.6}, {"top1": 70.2, "reduction_pct": -12.4}, True),
        ({"reduction_pct": -12.6}, {"top1": 69.9, "reduction_pct": -12.4}, False),
        ({"reduction_pct": -12.6}, {"top1": 70.2, "reduction_pct": -20.0}, False),
        (
            {"budget": rec.Budget("macs", -35)},
            {"top1": 70.2, "budget": rec.Budget("macs", -35)},
            True,
        ),
        (
            {"budget": rec.Budget("macs", -35)},
            {"top1": 70.2, "budget": rec.Budget("macs", -20)},
            False,
        ),
    ],
)
def test_below_random_at_the_same_budget_is_flagged(
    asap: dict[str, Any], random: dict[str, Any], flagged: bool
) -> None:
    (table,) = overview([baseline(), make("asap", **asap), make("random", **random)])
    marked = [row[0] for row in texts(table) if BELOW in row[0]]
    assert marked == ([f"asap {BELOW}"] if flagged else [])
    assert any(BELOW in note for note in table.notes()) == flagged


def test_rows_with_predictors_of_ours_say_so() -> None:
    ours, theirs = make("spot"), make("dynamicvit")
    ours.provenance.method = {"checkpoint": "p", "sha256": "2" * 64, "trained": TRAINED}
    theirs.provenance.method = {"checkpoint": "q", "sha256": "3" * 64}
    (table,) = overview([ours, theirs])
    assert [row[0] for row in texts(table)] == ["dynamicvit", "spot (predictor trained by us)"]


def test_random_counts_as_the_mean_of_its_seeds() -> None:
    seeds = [make("random", k=0.7, seed=s, top1=t) for s, t in enumerate((69.0, 70.0, 72.0))]
    (table,) = overview([make(top1=70.2), *seeds])
    assert cells(table, 0)["method"] == f"asap {BELOW}"
    assert "random k=0.7, 3 seeds: top-1 70.33 (69.00 to 72.00)" in table.notes()
    assert [row[1] for row in texts(table)[1:]] == ["k=0.7", "k=0.7 seed=1", "k=0.7 seed=2"]


def test_random_weights_are_not_comparable() -> None:
    (table,) = overview([make(trained=False)])
    assert "random weights, not comparable" in table.notes()
    (table,) = overview([make()])
    assert table.notes() == []


def test_unfinished_runs_are_shown_as_such() -> None:
    failed = make("mass", metrics=None, paired=None, macs=None, tokens=None, fired=None)
    (table,) = overview([make(), replace(failed, status="failed", error="no space left")])
    assert texts(table)[1][0] == "mass (failed)"
    assert texts(table)[1][3] == DASH
    assert table.notes() == ["mass failed: no space left"]


@pytest.mark.parametrize("form", ["rich", "markdown", "csv"])
def test_a_folder_of_nothing_but_failures(form: str) -> None:
    failed = [
        replace(make(method), status="failed", error="x", metrics=None, macs=None, paired=None)
        for method in ("asap", "random", "none")
    ]
    assert "failed" in render(failed, form)


@pytest.mark.parametrize("form", ["rich", "markdown", "csv"])
def test_same_records_same_bytes(form: str) -> None:
    records = [make(), make("random", k=0.5), make("mass", k=0.5), baseline(), make(k=4.0)]
    assert render(records, form) == render(records[::-1], form)


def test_csv_keeps_every_digit() -> None:
    (row,) = csv.DictReader(io.StringIO(render([make(top1=70.123456789)], "csv")))
    assert float(row["top1"]) == 70.123456789
    assert row["share_of_ideal"] == ""


def test_markdown_gives_the_command_and_escapes() -> None:
    text = render([make(command="asap-eval 'data=a|b<c>'", data="a|b<c>")], "markdown")
    assert "a\\|b&lt;c>" in text
    assert "<details><summary>Commands</summary>" in text
    assert "* asap: `asap-eval 'data=a|b<c>'`" in text


def test_markdown_rows_have_as_many_cells_as_the_head() -> None:
    text = markdown(sheet_of_text("t", ["a", "b"], [["1|2", "x\ny"]]))
    assert text.splitlines()[2:] == ["| a | b |", "| --- | --- |", "| 1\\|2 | x y |"]


def test_bad_files_are_reported_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, make())
    good = next(tmp_path.glob("*.json")).read_text()
    bad = {
        "torn.json": good[: len(good) // 2],
        "empty.json": "",
        "foreign.json": json.dumps({"hello": 1}),
        "list.json": "[1]",
        "older.json": good.replace('"schema": 1', '"schema": 0'),
        "binary.json": "\0\1",
    }
    for name, content in bad.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')

    assert main([str(tmp_path), "--format", "markdown"]) == 0
    out, err = capsys.readouterr()
    assert len([line for line in out.splitlines() if line.startswith("| asap ")]) == 1
    assert len([line for line in err.splitlines() if line.startswith("skipped: ")]) == len(bad) + 1
    for name in [*bad, "latin.json"]:
        assert name in err


def test_text_of_records_is_not_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, make(data="[red]x"))
    assert main([str(tmp_path)]) == 0
    assert "[red]x" in capsys.readouterr().out


def test_out_writes_the_same_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "results", make(), baseline())
    target = tmp_path / "new" / "table.md"
    args = [str(tmp_path / "results"), "--format", "markdown"]
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert main([*args, "--out", str(target)]) == 0
    assert target.read_text(encoding="utf-8") == printed
    assert [path.name for path in target.parent.iterdir()] == ["table.md"]


def test_out_that_cannot_be_written_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, make())
    (tmp_path / "file").touch()
    assert main([str(tmp_path), "--out", str(tmp_path / "file" / "table.txt")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_nothing_to_show_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path / "missing")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"No folder {tmp_path / 'missing'}" in err


def test_titles_name_lists_without_brackets_and_leave_empty_ones_out() -> None:
    record = make()
    job = replace(record.job, bench_params={"maps": [], "taus": [1.4, 1.7], "none": None})
    (table,) = overview([replace(record, job=job)])
    assert table.title.endswith(" · float32 · taus=1.4,1.7")


def test_a_foreign_block_costs_its_own_record_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a benchmark keeps has no declared type: another version's names are said and skipped."""
    foreign = replace(make("none", key="w"), metrics=None, analysis={"other": 1})
    foreign = replace(foreign, job=replace(foreign.job, bench="walk"))
    put(tmp_path, baseline(), make("mass"), foreign)
    for words in ([str(tmp_path)], [str(tmp_path), "--claims"], ["table=1", f"results={tmp_path}"]):
        assert main(words) == 0
        assert "does not hold what this version shows of bench=walk" in capsys.readouterr().err


def test_no_cell_or_command_breaks_out_of_markdown() -> None:
    text = markdown(
        sheet_of_text("t", ["a", "b"], [["x\\|y", "z"]], commands=[("x", "say `this`")])
    )
    assert r"| x\\\|y | z |" in text
    assert "`` say `this` ``" in text
