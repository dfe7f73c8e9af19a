"""Experiments over several tasks: scores beside published ones, changes, verdicts, means."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest
from records import make
from test_experiment_table import resolved

from asap_eval.cli.report.tables import render
from asap_eval.experiment import Experiment, parse
from asap_eval.record import RunRecord

WHOLE = {"gqa": 62.0, "mme": 1860.0}
PRINTED = {"row": "Ours", "tokens": 64, "tasks": {"gqa": 59.6, "mme": 1781}, "avg": 75.0}
ROWS: list[dict[str, Any]] = [
    {"method": "none", "published": {"row": "Full", "tasks": {"gqa": 61.9, "mme": 1862}}},
    {"method": "asap", "method.n": 64, "reading": "stride to 64", "published": PRINTED},
    {"method": "tome", "method.r": [3] * 5 + [2] * 18},
    {"method": "random", "sweep": {"seed": [0, 1]}},
]


def experiment(**about: Any) -> Experiment:
    common = {"model": "llava15_7b", "bench": "vlm", "tasks": ["gqa", "mme", "pope"]}
    return parse("mine", {"about": {"paper": "Table 9", **about}, "common": common, "rows": ROWS})


def vlm(
    method: str, gqa: float, mme: float, *, tasks: tuple[str, ...] = ("gqa", "mme"), **changes: Any
) -> RunRecord:
    """A record of two tasks, with intervals of two points (forty of MME) on each side."""
    record = make(method, model="llava15_7b", **changes)
    blocks: dict[str, dict[str, Any]] = {}
    for task, score in (("gqa", gqa), ("mme", mme)):
        blocks[task] = {"score": score, "n": 100, "failed": 0}
        if method != "none":
            wide = 2 if task == "gqa" else 40
            delta = score - WHOLE[task]
            blocks[task] |= {"delta": delta, "delta_ci95": [delta - wide, delta + wide]}
    return replace(
        record,
        job=replace(
            record.job, bench="vlm", bench_params={"tasks": list(tasks), "newline": "kept"}
        ),
        metrics=None,
        paired=None,
        tasks={task: blocks[task] for task in tasks},
    )


FULL = vlm("none", 62.0, 1860.0)
OURS = vlm("asap", 60.0, 1700.0, k=8.0, params=resolved("asap", n=64))


@pytest.fixture(autouse=True)
def _options_of_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables do not depend on what else the benchmark can be told."""
    given = {"tasks": ["gqa"], "newline": "kept"}
    monkeypatch.setattr("asap_eval.report.experiment.match.bench_defaults", lambda _: given)


def lines(records: list[RunRecord], **about: Any) -> list[dict[str, str]]:
    text = render(records, "csv", experiment(**about))
    return list(csv.DictReader(io.StringIO(text)))


def test_every_task_stands_beside_its_published_score() -> None:
    whole, ours, *_ = lines([FULL, OURS])
    assert (float(whole["score_gqa"]), float(whole["published_gqa"])) == (62.0, 61.9)
    assert float(ours["published_delta_gqa"]) == pytest.approx(-2.3)
    assert float(ours["difference_gqa"]) == pytest.approx(0.3)
    assert (ours["verdict_gqa"], ours["verdict_mme"]) == ("reproduced †", "differs †")
    assert ours["verdict"] == "reproduced: 1, differs: 1"
    text = render([FULL, OURS], "markdown", experiment())
    assert "| 60.00 (59.6) | 1700.0 (1781) |" in text
    assert "-2.00 [-4.00, +0.00], -2.3, +0.30 =†" in text
    assert "-160.00 [-200.00, -120.00], -81.0, -79.00 ≠†" in text
    assert "reading of Ours: stride to 64" in text


def test_the_mark_goes_where_all_documents_were_answered() -> None:
    _, ours, *_ = lines([FULL, OURS], samples={"gqa": 100, "mme": 2374})
    assert (ours["verdict_gqa"], ours["verdict_mme"]) == ("reproduced", "differs †")


def test_means_need_every_task() -> None:
    whole, ours, *_ = lines([FULL, OURS])
    assert float(whole["avg"]) == pytest.approx((62 + 93) / 2)
    assert float(ours["avg"]) == pytest.approx((60 + 85) / 2)
    assert float(ours["rel"]) == pytest.approx(100 * 72.5 / 77.5)
    part: tuple[str, ...] = ("gqa",)
    whole_part = vlm("none", 62, 0, tasks=part)
    ours_part = vlm("asap", 60, 0, tasks=part, k=8.0, params=resolved("asap", n=64))
    _, ours, *_ = lines([whole_part, ours_part])
    assert ours["score_gqa"] == "60.0"
    assert ours["avg"] == ours["rel"] == ""


def test_a_printed_mean_that_its_cells_contradict_is_named() -> None:
    text = render([FULL, OURS], "markdown", experiment())
    assert "Ours: printed Avg 75, its own cells give 74.33" in text


def test_seeds_are_a_mean_and_controls_have_no_verdict() -> None:
    params = resolved("random")
    seeds = [vlm("random", 50.0 + 2 * s, 1500, k=0.7, seed=s, params=params) for s in (0, 1)]
    *_, control = lines([FULL, *seeds])
    assert float(control["score_gqa"]) == 51.0
    assert float(control["delta_gqa"]) == -11.0
    assert control["verdict"] == ""


def test_a_schedule_is_found_and_shown_by_its_runs() -> None:
    schedule = [3] * 5 + [2] * 18
    record = vlm("tome", 55.0, 1500.0, params={**resolved("tome"), "r": schedule})
    text = render([FULL, record], "markdown", experiment())
    assert "| tome | r=[3 x 5, 2 x 18] |" in text
    other = replace(record, job=replace(record.job, params={**record.job.params, "r": [3, 2]}))
    assert "r=[3 x 5, 2 x 18] | not run" in render([FULL, other], "markdown", experiment())


def test_random_weights_stand_in_no_table_of_published_scores() -> None:
    none = make("none", model="llava15_7b", trained=False)
    small = replace(OURS, provenance=none.provenance)
    _, ours, *_ = lines([small])
    assert ours["verdict"] == "not comparable: random weights"
    assert ours["score_gqa"] == ""


def test_another_models_scores_are_not_compared() -> None:
    other = [replace(r, job=replace(r.job, model="llava_next_7b")) for r in (FULL, OURS)]
    _, ours, *_ = lines(other)
    assert ours["verdict"] == "not comparable: published for llava15_7b"
    assert ours["published_gqa"] == ours["verdict_gqa"] == ""
    assert ours["score_gqa"] == "60.0"
