"""``asap-eval cases``: sheets of answers fixed and broken, their index, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llava as small
from PIL import Image

from asap_eval.cli import cases
from asap_eval.cli.run import main as run
from asap_eval.report.pictures.keep_map import KEPT, POOLED

N = 9
"""Tokens that the second stage leaves of each crop."""
TURNED = {"pope/0": "fixed", "pope/1": "broken", "pope/2": "fixed"}
"""What the edited rows say; the model is untrained and never right."""


@pytest.fixture(scope="module", params=small.NAMES)
def made(
    request: pytest.FixtureRequest, questions: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """Records of four questions with three cases put into their rows; what the method said."""
    folder = tmp_path_factory.mktemp(request.param)
    given = [f"model={request.param}", "bench=vlm", "tasks=[pope]", f"data={questions}"]
    given += ["limit=4", "bench.new_tokens=3", "batch_size=1", f"results={folder}"]
    method = ["method=asap", "k=2", f"method.n={N}", "method.never=block:2", "method.anchor=mass"]
    assert run([*given, *method]) == 0
    said = {}
    for path in folder.glob("*.samples.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            ours = "-asap-" in path.name
            if ours:
                said[row["id"]] = row["prediction"]
            row["correct"] = TURNED.get(row["id"]) == ("fixed" if ours else "broken")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder, said


@pytest.fixture
def folder(made: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made[0], tmp_path / "results"))


def edit(folder: Path, **blocks: dict[str, Any]) -> None:
    """Change blocks of the method's record; a dot leads down."""
    (path,) = (p for p in folder.glob("*-asap-*.json") if "samples" not in p.name)
    record = json.loads(path.read_text())
    for name, values in blocks.items():
        inside = record
        for part in name.split("__"):
            inside = inside[part]
        inside.update(values)
    path.write_text(json.dumps(record))


def test_every_case_gets_a_sheet_and_a_line(
    made: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, said = made
    sheets: dict[str, tuple[Any, ...]] = {}
    draw = cases.case_sheet

    def watched(*given: Any) -> Any:
        sheets[given[2].id] = given
        return draw(*given)

    monkeypatch.setattr(cases, "case_sheet", watched)
    out = tmp_path / "cases"
    assert cases.main([f"results={results}", f"out={out}", "most=1"]) == 0
    assert sorted(sheets) == ["pope/0", "pope/1"], "the first of each outcome"
    text = (out / "index.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if "| pope/" in line]
    assert [(line[0], line[6]) for line in lines] == [
        ("pope/0", "fixed"),
        ("pope/2", "fixed"),
        ("pope/1", "broken"),
    ]
    assert [line[-1].startswith("[sheet](") for line in lines] == [True, False, True]
    assert lines[1][-2:] == ["—", "—"]
    assert "2 of 3 cases have a sheet" in text
    assert "random weights, not comparable" in text
    for name, (_, _, case, crops, stages) in sheets.items():
        assert case.after == said[name]
        assert stages[-1].answer == said[name], "the run is the record's own"
        assert [stage.name for stage in stages] == ["asap, first stage", f"asap, n={N}"]
        first, last = (stage.maps for stage in stages)
        assert len(first) == len(last) == len(crops)
        for before, after in zip(first, last, strict=True):
            assert before.sink == after.sink
            assert before.fates.count(KEPT) + before.fates.count(POOLED) == 144
            assert len({slot for slot in after.slots if slot >= 0}) == N
    for line in (lines[0], lines[2]):
        png = out / line[-1][len("[sheet](") : -1]
        case, crops = sheets[line[0]][2:4]
        with Image.open(png) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=int)
        inside = pixels[pixels.shape[0] - 100 - 260 * len(crops) : -60]
        assert (np.abs(inside - (230, 30, 30)).sum(-1) < 40).sum() > 200, "the sink's frame"
        assert pixels.shape[0] > 216 * len(crops)
        assert case.id in png.with_suffix(".svg").read_text()


def test_a_case_without_a_picture_says_why(folder: Path, tmp_path: Path) -> None:
    """Tokens lost in LLaVA-NeXT's language model are no patches; LLaVA-1.5's are."""
    edit(folder, job={"method": "fastv", "k": 36.0, "params": {}})
    out = tmp_path / "cases"
    assert cases.main([f"results={folder}", f"out={out}", "most=0"]) == 0
    text = (out / "index.md").read_text()
    tiled = "llava_next_tiny" in text
    assert text.count("none: This method acts in the language model") == 3 * tiled
    assert len(list(out.rglob("*.png"))) == 3 * (not tiled)


@pytest.mark.parametrize(
    ("block", "word", "code", "says"),
    [
        ({"provenance__weights": {"sha256": "f" * 64}}, "most=1", 1, "has other weights than"),
        ({"provenance__data": {"ids_digest": "f" * 64}}, "most=1", 1, "has other questions than"),
        ({"job": {"data": "/absent"}}, "most=1", 1, "If they moved, give data="),
        ({}, "weights=/absent", 1, "If it moved, give weights="),
        ({}, "task=gqa", 1, "No record here has task 'gqa'"),
        ({}, "most=few", 2, "0 for all"),
        ({}, "dta=x", 2, "Did you mean data"),
    ],
)
def test_what_no_longer_fits_is_refused(
    block: dict[str, Any],
    word: str,
    code: int,
    says: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(folder, **block)
    assert cases.main([f"results={folder}", f"out={tmp_path / 'o'}", word]) == code
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "o").exists()


def test_where_questions_are_now_can_be_said(
    folder: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder, job={"data": "/absent"})
    given = [f"results={folder}", f"out={tmp_path / 'o'}", "most=1", f"data={questions}"]
    assert cases.main(given) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path / "o" / "index.md")
    assert all(Path(line).is_file() for line in printed)
    assert len(printed) == 5


def test_without_a_case_nothing_is_drawn(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.glob("*.samples.jsonl"):
        path.write_text(path.read_text().replace('"correct": true', '"correct": false'))
    assert cases.main([f"results={folder}", f"out={tmp_path / 'o'}"]) == 1
    assert "No answer of task pope was fixed or broken" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
