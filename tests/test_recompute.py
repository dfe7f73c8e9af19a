"""Intervals of finished records made again from their per-sample files, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from project import ROOT

from asap_eval.cli.recompute import main
from asap_eval.files.digests import file_sha256
from asap_eval.runner import recompute

VIDEO = ROOT / "results" / "video"
RECORD = "digits_vit-ppt-"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A committed record of a method and those of the unpruned model, with their samples."""
    for path in VIDEO.glob("*.json*"):
        if path.name.startswith((RECORD, "digits_vit-none-")):
            shutil.copy(path, tmp_path)
    return tmp_path


def record_of(folder: Path) -> Path:
    (path,) = folder.glob(f"{RECORD}*.json")
    return path


def edited(path: Path, **paired: Any) -> dict[str, Any]:
    """A record's file with other values in ``paired``."""
    data: dict[str, Any] = json.loads(path.read_text())
    data["paired"] |= paired
    path.write_text(json.dumps(data, indent=1) + "\n")
    return data


def test_committed_records_have_the_intervals_of_today(results: Path) -> None:
    before = record_of(results).read_bytes()
    assert main([str(results)]) == 0
    assert record_of(results).read_bytes() == before


def test_an_older_interval_is_replaced_and_nothing_else(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record_of(results)
    before = path.read_bytes()
    edited(path, ci95=[-5.2, 2.1])
    assert main([str(results)]) == 0
    assert path.read_bytes() == before
    assert "1 of" in capsys.readouterr().out
    assert not list(results.glob(".*.part"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "is gone"),
        (lambda path: path.write_text(path.read_text()[:-10]), "line 96 is broken"),
        (lambda path: path.write_text("".join(path.open().readlines()[:-1])), "has 95 samples"),
        (
            lambda path: path.write_text(path.read_text().replace('"correct":true', '"correct":0')),
            "are not of one run",
        ),
    ],
    ids=["absent", "torn", "short", "of another run"],
)
def test_samples_that_cannot_be_trusted_leave_the_record_as_it_was(
    damage: Any, said: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record_of(results)
    edited(path, ci95=[-5.2, 2.1])
    before = path.read_bytes()
    damage(path.with_suffix(".samples.jsonl"))
    assert main([str(results)]) == 1
    assert path.read_bytes() == before
    error = capsys.readouterr().err
    assert said in error
    assert path.name in error


def test_a_baseline_has_to_lie_beside_it(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in results.glob("digits_vit-none-*.json"):
        path.unlink()
    assert main([str(results)]) == 1
    assert "the record of its baseline" in capsys.readouterr().err
    assert main([str(results / "nowhere")]) == 2


def test_samples_that_are_not_what_the_run_left_are_refused(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a record that keeps the hashes of its files: one with as many samples does not pass."""
    path = record_of(results)
    samples = path.with_suffix(".samples.jsonl")
    data = json.loads(path.read_text())
    data["files"] = {samples.name: file_sha256(samples)}
    path.write_text(json.dumps(data, indent=1))
    samples.write_text(samples.read_text().replace('"correct":true', '"correct":false', 1))
    assert main([str(results)]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_work_is_counted_without_the_head_and_its_classes() -> None:
    params = {"timm": "test_vit", "kwargs": {"num_classes": 0}, "classes": ["cat", "dog"]}
    geometry = recompute._geometry("imagenet", "test_vit", "{}", json.dumps(params))
    assert geometry.head_macs == 0
