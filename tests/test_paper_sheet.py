"""The paper's tables from records: golden files, what a change moves, what is skipped."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from paper_records import GOLDEN, TABLES, name, records, report, resolved, row
from records import make, put

from asap_eval.cli.report import main
from asap_eval.experiment import bench_defaults
from asap_eval.paper import TABLES as ALL_TABLES
from asap_eval.paper import paper_table
from asap_eval.record import RunRecord, write_record
from asap_eval.report.paper.sheets import portable, table_sheet
from asap_eval.report.sheet import Cell, Head, Line, Sheet
from asap_eval.report.text import ENDINGS, FORMATS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return put(tmp_path / "results", *records())


@pytest.mark.parametrize("form", ENDINGS)
@pytest.mark.parametrize("table", TABLES)
def test_the_golden_reports(table: str, form: str, folder: Path, tmp_path: Path) -> None:
    """Byte by byte; ``python tests/paper_records.py`` writes them anew after a wanted change."""
    out = tmp_path / "out"
    report(folder, table, form, out)
    assert out.read_bytes() == (GOLDEN / name(table, form)).read_bytes()


def cells(found: list[RunRecord]) -> dict[tuple[str, str, str, int], Cell]:
    """Cells of Table 1 by section, first words, head, and number among rows of that name."""
    sheet = table_sheet(paper_table("1"), found)
    seen: dict[tuple[str, str], int] = {}
    result = {}
    for line in sheet.rows:
        key = (line.section, f"{line.cells[0].text} {line.cells[1].text}")
        seen[key] = seen.get(key, -1) + 1
        for head, cell in zip(sheet.columns, line.cells, strict=True):
            result[(*key, head.full, seen[key])] = cell
    return result


def test_a_changed_record_changes_its_cells_and_no_other() -> None:
    whole = list(records())
    before = cells(whole)
    tome = next(r for r in whole if r.job.method == "tome")
    assert tome.metrics is not None
    other = replace(tome, metrics=replace(tome.metrics, top1=75.5))
    after = cells([other if r is tome else r for r in whole])
    moved = {key for key in before if before[key] != after[key]}
    assert moved == {("DeiT-Tiny", "ToMe tome", "top-1: measured %", 0)}
    assert after[next(iter(moved))].text == "75.50"


def test_records_come_in_any_order_and_from_any_folder() -> None:
    whole = list(records())
    one, other = (table_sheet(paper_table("1"), r) for r in (whole, whole[::-1]))
    assert one == other
    assert not any("/home/someone" in form(one) for form in FORMATS.values())


def test_random_weights_never_enter() -> None:
    found = cells(list(records()))
    ppt = found[("DeiT-Tiny", "PPT ppt", "top-1: measured %", 0)]
    assert ppt == Cell()
    alone = [row("tome", -38.46, top1=77.0, trained=False)]
    assert not any(line.commands for line in table_sheet(paper_table("1"), alone).rows)


def test_a_row_says_what_the_record_holds() -> None:
    found = cells(list(records()))

    def cell(head: str, row: str = "Ours asap ▼") -> str:
        return found[("DeiT-Tiny", row, head, 0)].text

    assert cell("top-1: published %") == "71.63"
    assert cell("top-1: measured %") == "61.50"
    assert cell("Δ top-1: measured points") == "-9.20"
    assert cell("Δ top-1: difference points") == "-8.63"
    assert cell("Δ top-1: interval points") == "[-11.60, -6.80]"
    assert cell("throughput: measured %") == "+20.00"
    assert cell("throughput: interval %") == "[+18.00, +23.00]"
    assert cell("n") == "500"
    assert cell("verdict").startswith("differs")
    assert cell("verdict", "ZeroTPrune zero_tprune").startswith("not run: 50 % of A_b")
    assert cell("top-1: measured %", "— random") == "72.12"
    assert found[("DeiT-Base", "DynamicViT dynamicvit", "top-1: published %", 0)].text == "81.30"


SCORES = {"gqa": 57.0, "mme": 1700.0, "pope": 83.0, "scienceqa_img": 68.0, "vizwiz_vqa_val": 54.0}


def test_scores_of_tasks_stand_in_table_5_and_avg_only_over_all_of_them() -> None:
    def sheet_cells(scores: dict[str, float]) -> dict[str, str]:
        bench = {**bench_defaults("vlm"), "tasks": sorted(scores)}
        made = make("visionzip", model="llava15_7b", k=128.0, params=resolved("visionzip"))
        job = replace(made.job, bench="vlm", bench_params=bench)
        tasks = {t: {"score": v, "baseline": 1.02 * v, "n": 100} for t, v in scores.items()}
        record = replace(made, job=job, metrics=None, paired=None, tasks=tasks)
        sheet = table_sheet(paper_table("5"), [record])
        (line,) = [line for line in sheet.rows if line.commands]
        assert line.section == "128 tokens"
        heads = [head.full for head in sheet.columns]
        return dict(zip(heads, (cell.text for cell in line.cells), strict=True))

    some = sheet_cells(SCORES)
    assert (some["row of the paper"], some["n"]) == ("VisionZip", "500")
    assert (some["GQA: published %"], some["GQA: measured %"]) == ("57.6", "57.0")
    assert some["GQA: difference %"] == "-0.6"
    assert (some["VQAv2: measured %"], some["Avg: measured"], some["Rel: measured %"]) == (
        *("—",) * 3,
    )
    whole = sheet_cells({**SCORES, "vqav2_val": 75.0, "mmbench_en_dev_static": 62.0})
    assert whole["Avg: measured"] == "69.1"  # 484 / 7, MME as 85
    assert whole["Rel: measured %"] == "98.0"  # 69.1 / 70.5


@pytest.mark.parametrize("table", ALL_TABLES)
def test_without_records_the_paper_stands_alone(table: str) -> None:
    sheet = table_sheet(paper_table(table), [])
    rows = paper_table(table).rows
    assert [line.section for line in sheet.rows] == sorted(
        (line.section for line in sheet.rows), key=list(paper_table(table).sections).index
    )
    assert {row.row for row in rows} <= {line.cells[0].text for line in sheet.rows}
    for line in sheet.rows:
        measured = [
            cell
            for head, cell in zip(sheet.columns, line.cells, strict=True)
            if head.kind == "number" and head.name != "published"
        ]
        assert measured
        assert all(cell == Cell() for cell in measured)
        assert line.cells[3].text.startswith("not run")


def test_what_is_no_record_is_reported_and_skipped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["table=1", f"results={folder}", "format=csv"])
    clean = capsys.readouterr().out
    whole = write_record(next(records()), folder / "more").read_text()
    (folder / "more" / "half.json").write_text(whole[: len(whole) // 2])
    (folder / "empty.json").write_text("")
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "foreign.json").write_text('{"name": "package", "version": "1.0"}')
    (folder / "old.json").write_text(json.dumps({**json.loads(whole), "schema": 0}))
    (folder / "lacking.json").write_text('{"schema": 1, "key": "k"}')
    (folder / "folder.json").mkdir()
    (folder / "notes.txt").write_text("no record")
    assert main(["table=1", f"results={folder}", "format=csv"]) == 0
    out, problems = capsys.readouterr()
    assert out == clean
    lines = [line for line in problems.splitlines() if line.startswith("skipped:")]
    names = ("half", "empty", "bytes", "list", "foreign", "old", "lacking", "folder")
    assert sorted(names) == sorted(
        name for line in lines for name in names if f"{name}.json" in line
    )
    assert len(lines) == len(names)
    assert "has schema 0; this version reads 1" in problems


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["table=12"], "Unknown table of the paper '12'"),
        (["tabel=1"], "Did you mean table?"),
        (["table=1", "format=pdf"], "Unknown format 'pdf'"),
        (["table=1", "more"], "'more' has no key"),
        (["table=1", "table=2"], "table is given twice"),
        (["results=nowhere"], "No folder nowhere"),
        (["table=1", "results=nowhere"], "No folder nowhere"),
    ],
)
def test_a_wrong_command_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert says in capsys.readouterr().err


def test_all_tables_are_a_file_each(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    assert main(["all", f"results={folder}", "format=latex", f"out={out}"]) == 0
    names = {"alpha.tex", *(f"table{number}.tex" for number in range(1, 12))}
    assert {path.name for path in out.iterdir()} == names
    file = tmp_path / "file"
    file.write_text("")
    assert main(["all", f"results={folder}", f"out={file}"]) == 2


NASTY = r"a|b & <i>c</i> `d` *e* _f_ [g](h) 50% $1 #2 {x} ~y ^z \n" + ' "q" line\nbreak'
SHEET = Sheet(
    name="nasty_1",
    title=NASTY,
    columns=(Head("row", kind="text"), Head("score", "%", group=NASTY)),
    rows=(
        Line((Cell(NASTY), Cell("1.25", 1.2499, note=NASTY)), section=NASTY, commands=("a\nb",)),
        Line((Cell("- b"), Cell()), section="second"),
    ),
    footnotes=("+ plus", NASTY),
)


def test_markdown_is_escaped() -> None:
    text = FORMATS["markdown"](SHEET)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 6
    assert all(line.replace(r"\|", "").count("|") == 3 for line in rows)
    assert "<i>" not in text
    assert r"a\|b &amp; &lt;i>c&lt;/i> \`d\` \*e\* \_f\_ \[g\](h)" in text
    assert "\n* \\+ plus\n" in text


def test_csv_gives_back_what_went_in() -> None:
    first, second = csv.DictReader(io.StringIO(FORMATS["csv"](SHEET)))
    assert first["row"] == NASTY
    assert first["section"] == NASTY
    assert first[f"{NASTY}: score %"] == "1.2499"
    assert NASTY in first["notes"]
    assert second[f"{NASTY}: score %"] == ""


def test_latex_is_escaped() -> None:
    text = FORMATS["latex"](SHEET)
    assert r"50\% \$1 \#2 \{x\} \textasciitilde{}y \textasciicircum{}z" in text
    assert r"\textbackslash{}n" in text
    body = [line for line in text.splitlines() if not line.startswith("%")]
    inside = "\n".join(body).replace(r"\{", "").replace(r"\}", "")
    assert inside.count("{") == inside.count("}")
    rows = [line for line in body if line.endswith(r"\\") and "multicolumn{2}" not in line]
    assert all(line.replace(r"\&", "").count("&") == 1 for line in rows)
    assert r"\label{tab:nasty-1}" in text
    assert "a b" in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("data=/home/x/imagenet/val limit=4", "data=…/val limit=4"),
        ("/usr/bin/asap-eval a=../b/c", "…/asap-eval a=../b/c"),
        ("m · imagenet · /data/val · 4", "m · imagenet · …/val · 4"),
        ("data=hfds/timm/mini weights='/a b/c.pt'", "data=hfds/timm/mini weights='…/c.pt'"),
    ],
)
def test_no_folder_of_a_machine_is_shown(given: str, shown: str) -> None:
    assert portable(given) == shown
