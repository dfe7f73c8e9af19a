"""Cases: samples that a method fixed or broke, and what it kept of their pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_llava as small
import torch
from records import make, put

from asap_eval import record as rec
from asap_eval.bench.language.keepmaps import keep_maps
from asap_eval.cli.report import main
from asap_eval.method import build

# Right answers of six questions, and who gave which: yes to the 1st, 2nd and 5th.
TRUTH = ("yes", "yes", "no", "no", "yes", "no")
NONE = ("yes", "no", "no", "yes", "yes", None)
OURS = ("yes", "yes", "yes", "no", "no", "no")


def rows(said: tuple[str | None, ...], task: str = "pope") -> list[dict[str, Any]]:
    return [
        {
            "id": f"{task}/{at}",
            "task": task,
            "part": "random",
            "question": f"Is there a | number {at}?",
            "truth": truth,
            "prediction": answer,
            "correct": answer == truth,
        }
        for at, (truth, answer) in enumerate(zip(TRUTH, said, strict=True))
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An unpruned record and one of a method, with two tasks in their per-sample files."""
    block = {"pope": {"score": 50.0, "n": 6, "failed": 1}}
    none = make("none", model="llava15_7b", key="a" * 64, metrics=None, paired=None)
    ours = make("stride", model="llava15_7b", key="b" * 64, metrics=None, paired=None)
    for record, said in ((none, NONE), (ours, OURS)):
        whole = rec.Baseline(none.key, None, None, 6, 0) if record is ours else None
        name = f"{record.stem}.samples.jsonl"
        put(tmp_path, replace(record, tasks=block, baseline=whole, samples=name))
        lines = [json.dumps(row) for row in (*rows(said), *rows(said, "gqa"))]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    return tmp_path


def shown(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["cases", f"results={folder}", "task=pope", "format=markdown", *more]) == 0
    return capsys.readouterr().out


def test_fixed_and_broken_answers_are_listed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(folder, capsys)
    table = [line.split(" | ") for line in text.splitlines() if line.startswith("| pope")]
    got = [(line[0].strip("| "), line[3], line[4], line[5], line[6].strip("| ")) for line in table]
    assert got == [
        ("pope/1", "yes", "no", "yes", "fixed"),
        ("pope/3", "no", "yes", "no", "fixed"),
        ("pope/5", "no", "—", "no", "fixed"),
        ("pope/2", "no", "no", "yes", "broken"),
        ("pope/4", "yes", "yes", "no", "broken"),
    ]
    assert r"Is there a \| number 1?" in text
    assert "3 fixed, 2 broken of 6 samples" in text
    assert "gqa" not in text


def test_the_list_can_be_short(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(folder, capsys, "most=1")
    assert text.count("| pope/") == 2
    assert "3 fixed, 2 broken of 6 samples" in text
    assert "the first 1 of each" in text
    assert shown(folder, capsys, "most=0").count("| pope/") == 5


def test_the_terminal_shows_them_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cases", f"results={folder}"]) == 0
    assert "pope/4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("task", "No record here has task 'mme'"),
        ("file", "Cannot read the per-sample file"),
        ("old", "does not hold the questions"),
        ("baseline", "No record here has task 'pope'"),
    ],
)
def test_what_is_missing_is_said(
    damage: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = next(folder.glob("*-none-*.samples.jsonl"))
    if damage == "file":
        none.unlink()
    if damage == "old":
        none.write_text('{"id":"pope/0","task":"pope"}\n')
    if damage == "baseline":
        none.with_name(none.name.replace(".samples.jsonl", ".json")).unlink()
    task = "mme" if damage == "task" else "pope"
    assert main(["cases", f"results={folder}", f"task={task}"]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("most=-1", "0 for all"),
        ("format=csv", "Unknown value of format"),
        ("mots=1", "Did you mean most"),
        ("pope", "give key=value"),
        ("results=/absent", "No folder"),
    ],
)
def test_words_that_are_not_understood(
    word: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [] if word.startswith("results=") else [f"results={folder}"]
    assert main(["cases", *where, word]) == 2
    assert says in capsys.readouterr().err


def test_records_are_chosen_by_model_and_method(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "pope/1" in shown(folder, capsys, "model=llava15_7b", "method=stride")
    assert main(["cases", f"results={folder}", "method=tome"]) == 1
    assert "No record here has task 'pope'" in capsys.readouterr().err


@small.on_both
def test_keep_maps_of_both_stages(name: str) -> None:
    options: dict[str, Any] = {"k": 2.0, "never": "block:3", "anchor": "mass"}
    stages = {
        "pooled": build("asap", **options),
        "budget": build("asap", n=9, stage2="algorithm2", **options),
    }
    picture, prompt = small.pictures()[2], small.QUESTIONS[0]
    found = keep_maps(small.vlm(name), stages, "one", picture, prompt, new_tokens=2)
    pooled, budget = found["pooled"], found["budget"]
    crops = 1 if name == "llava_tiny" else 5
    for kept in (pooled, budget):
        assert kept.sample == "one"
        assert kept.grid == (12, 12)
        assert kept.source.shape == (crops, 144)
        assert kept.sink is not None
        sinks = kept.source[torch.arange(crops), kept.sink]
        assert torch.equal(sinks, kept.source.amax(1)), "the sink is in the pooled token, the last"
    assert torch.equal(pooled.sink, budget.sink)  # type: ignore[arg-type]
    assert (pooled.source >= 0).all()
    for crop in range(crops):
        slots = budget.source[crop]
        assert len(slots[slots >= 0].unique()) == 9
        background = pooled.source[crop] == pooled.source[crop].max()
        assert torch.equal(slots == slots.max(), background)
    none = keep_maps(small.vlm(name), {"none": build("none")}, "one", picture, prompt, new_tokens=2)
    assert none["none"].sink is None
    assert not none["none"].fired.any()
