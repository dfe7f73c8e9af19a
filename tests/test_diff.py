"""``asap-eval report diff``: which records are one job, what counts as noise, the exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import vlm_rows
from records import AT_35, make, put

from asap_eval import record as rec
from asap_eval.bench.language.scores import answered, difference, task_block
from asap_eval.cli.report import main
from asap_eval.data.questions.lmms import totals_of
from asap_eval.report.diff.match import Shared, identity, label, pairs
from asap_eval.report.diff.numbers import BEYOND, UNKNOWN, WITHIN, Move, moves

N = 200


def with_samples(folder: Path, right: int, *, macs: float = 1e9, **changes: Any) -> rec.RunRecord:
    """A record of which the first ``right`` of 200 samples are right, and its samples."""
    record = make(top1=100 * right / N, n=N, **changes)
    record = replace(record, samples=f"{record.stem}.samples.jsonl")
    put(folder, record)
    rows = [
        {"id": f"{i:03}", "correct": i < right, "model_macs": macs + i, "tokens": 90}
        for i in range(N)
    ]
    (folder / str(record.samples)).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return record


def by_name(found: list[Move]) -> dict[str, Move]:
    return {move.name: move for move in found}


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    (path,) = folder.glob("*.samples.jsonl")
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


@pytest.mark.parametrize(("lost", "verdict"), [(5, WITHIN), (6, BEYOND)])
def test_samples_that_both_kept_are_compared_one_by_one(
    tmp_path: Path, lost: int, verdict: str
) -> None:
    """Five losses and no win have p = 2/2^5, six 2/2^6; unpaired, six of 200 are noise."""
    a = with_samples(tmp_path / "a", 150)
    b = with_samples(tmp_path / "b", 150 - lost)
    move = by_name(moves(a, b, rows_of(tmp_path / "a"), rows_of(tmp_path / "b")))["top-1 %"]
    assert move.p == 2 / 2**lost
    assert move.verdict == verdict
    assert move.after - move.before == pytest.approx(-lost / 2)
    assert move.basis == "200 samples, paired"

    unpaired = by_name(moves(a, b, None, rows_of(tmp_path / "b")))["top-1 %"]
    assert (unpaired.verdict, unpaired.p) == (WITHIN, None)
    assert unpaired.low is not None
    assert unpaired.low < -lost / 2


def test_without_samples_the_interval_is_newcombes() -> None:
    """56/70 against 48/80: Newcombe (1998), method 10, gives 0.0524 to 0.3339."""
    a, b = make(top1=60.0, n=80), make(top1=80.0, n=70)
    move = by_name(moves(a, b, None, None))["top-1 %"]
    assert (move.low, move.high) == pytest.approx((5.24, 33.39), abs=0.01)
    assert move.verdict == BEYOND


def test_means_over_samples_use_the_pairs(tmp_path: Path) -> None:
    """Every image does 1 % more work: the images differ among each other far more than that."""
    a = with_samples(tmp_path / "a", 150)
    b = with_samples(tmp_path / "b", 150, macs=1.01e9)
    a.macs.mean_g, b.macs.mean_g = 1.0, 1.01
    (move,) = moves(a, b, rows_of(tmp_path / "a"), rows_of(tmp_path / "b"))
    assert move.name == "GMACs, model"
    assert (move.low, move.high) == pytest.approx((0.01, 0.01))
    assert move.verdict == BEYOND
    (alone,) = moves(a, b, None, None)
    assert (alone.verdict, alone.basis) == (UNKNOWN, "no interval")


def test_equal_numbers_did_not_move() -> None:
    a, b = make(), make()
    b.macs.mean_g *= 1 + 1e-12  # another order of adding up
    assert moves(a, b, None, None) == []


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ({"j": 0.13, "j_ci95": [0.08, 0.18]}, WITHIN),
        ({"j": 0.20, "j_ci95": [0.17, 0.23]}, BEYOND),
        ({"j": 0.20}, UNKNOWN),
    ],
)
def test_intervals_of_an_analysis_are_used(after: dict[str, Any], verdict: str) -> None:
    """[0.05, 0.15] and [0.17, 0.23] overlap in neither reading; [0.08, 0.18] does."""
    a = make(analysis={"by": [{"j": 0.10, "j_ci95": [0.05, 0.15]}]})
    (move,) = moves(a, make(analysis={"by": [after]}), None, None)
    assert (move.name, move.verdict) == ("by [1] j", verdict)


def test_speed_compares_on_one_machine_only() -> None:
    def timed(median: float, cpu: str) -> rec.RunRecord:
        record = make(
            speed={"speedup": {"median": median, "p10": median - 0.02, "p90": median + 0.02}}
        )
        record.provenance.machine = {"cpu": cpu}
        return record

    here = timed(1.2, "x")
    assert [m.verdict for m in moves(here, timed(1.22, "x"), None, None)] == [WITHIN]
    assert [m.verdict for m in moves(here, timed(1.3, "x"), None, None)] == [BEYOND]
    assert [m.basis for m in moves(here, timed(1.3, "y"), None, None)] == ["other machine"]


def test_a_job_is_the_same_whatever_code_and_place() -> None:
    old = make("asap", params={"tau": 1.7, "reduce": "pool"}, key="1" * 64)
    new = make("asap", params={"tau": 1.7, "added_later": 1}, key="2" * 64, data="/elsewhere")
    new.provenance.sources = "t"
    shared = Shared({"timm"}, {"ids_digest"})
    assert identity(old, shared) != identity(new, shared)
    new = make("asap", params={"tau": 1.7}, key="2" * 64, data="/elsewhere")
    assert identity(old, shared) == identity(new, shared)
    for other in (
        make("mass"),
        make(k=2.0),
        make(params={"tau": 1.4}),
        make(seed=1),
        make(budget=AT_35),
        make(model="deit_small"),
    ):
        assert identity(other, shared) != identity(old, shared)


def test_a_parameter_of_models_that_one_version_lacks_does_not_part_jobs() -> None:
    def of(**params: Any) -> tuple[Path, rec.RunRecord]:
        record = make()
        return Path("a.json"), replace(record, job=replace(record.job, model_params=params))

    old, new = of(timm="vit"), of(timm="vit", family="image")
    assert len(pairs([old], [new]).both) == 1
    assert not pairs([old], [of(timm="other", family="image")]).both
    assert not pairs([of(timm="vit", family="text")], [new]).both


def test_other_pixels_part_jobs_where_every_record_says_what_it_saw() -> None:
    def of(content: str | None) -> tuple[Path, rec.RunRecord]:
        record = make()
        if content is not None:
            record.provenance.data["content"] = content
        return Path("a.json"), record

    assert len(pairs([of(None)], [of("b")]).both) == 1
    assert len(pairs([of("b")], [of("b")]).both) == 1
    assert not pairs([of("a")], [of("b")]).both


def test_the_latest_of_one_job_counts_and_a_finished_one_first() -> None:
    def at(day: int, status: str = "done") -> tuple[Path, rec.RunRecord]:
        record = replace(make(key=str(day)), status=status)
        record.provenance.started = f"2026-01-{day:02}T00:00:00+00:00"
        return Path(f"{day}.json"), record

    found = pairs([at(1), at(2), at(3, "failed")], [at(4)])
    assert [(a.key, b.key) for (_, a), (_, b) in found.both] == [("2", "4")]
    assert found.older == 2


def test_the_label_says_what_is_not_at_its_default() -> None:
    record = make(params={"tau": 1.7, "alpha": 0.5}, budget=AT_35, seed=3)
    assert label(record) == "deit_tiny · imagenet (500 samples) · asap tau=1.7 macs -35 seed=3"


def test_exit_codes_and_what_is_only_in_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with_samples(a, 150)
    with_samples(b, 150)
    put(a, make("mass"))
    put(b, make("random"))
    assert main(["diff", str(a), str(b), "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "nothing moved" in out
    assert "### only in A" in out
    assert out.index("mass") < out.index("only in B") < out.index("random")

    with_samples(b, 100)
    assert main(["diff", str(a), str(b)]) == 1
    out = capsys.readouterr().out
    assert "beyond noise" in out
    assert "-25 [" in out

    put(b, replace(make("mass"), status="failed", error="x"))
    with_samples(b, 150)
    assert main(["diff", str(a), str(b)]) == 1, "a job that was done and is no longer"
    assert "ended otherwise" in capsys.readouterr().out
    assert main(["diff", str(b), str(a)]) == 0


def test_torn_samples_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_samples(tmp_path / "a", 150)
    record = with_samples(tmp_path / "b", 100)
    (tmp_path / "b" / str(record.samples)).write_bytes(b"\xff\n")
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    said = capsys.readouterr()
    assert "line 1 is broken" in said.err
    assert "two intervals" in said.out


def test_bad_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = put(tmp_path / "a", make()), put(tmp_path / "b", make("mass"))
    assert main(["diff", str(one), str(tmp_path / "absent")]) == 2
    assert "No folder" in capsys.readouterr().err
    assert main(["diff", str(one), str(other)]) == 2
    assert "no job in common" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["diff", str(one), str(tmp_path / "empty")]) == 2
    assert "No record" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["rich", "markdown"])
def test_same_folders_same_bytes(tmp_path: Path, form: str) -> None:
    put(tmp_path / "a", make(), make("mass"), make("random"))
    put(tmp_path / "b", make("random", top1=1.0), make("mass", top1=2.0))
    texts = []
    for name in ("1", "2"):
        out = tmp_path / name
        main(
            ["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--format", form, "--out", str(out)]
        )
        texts.append(out.read_bytes())
    assert texts[0] == texts[1]


def test_questions_of_a_task_are_paired(questions: Path) -> None:
    """Eight of 24 answers of POPE turn wrong; the score moves as its own rule says."""
    asked = vlm_rows.asked(questions, "pope")
    totals = totals_of(asked.task)
    right = vlm_rows.rows_of(asked, lambda document: document["answer"])
    turned = {row["id"] for row in right[::3]}
    wrong = vlm_rows.rows_of(
        asked,
        lambda document: (
            {"yes": "no", "no": "yes"}[document["answer"]]
            if int(document["question_id"]) % 3 == 0
            else document["answer"]
        ),
    )
    assert {row["id"] for row in wrong if not row["correct"]} == turned
    own, other = (answered(asked.task, rows) for rows in (right, wrong))
    a, b = (
        make("asap", metrics=None, paired=None, tasks={"pope": task_block(totals, rows)})
        for rows in (own, other)
    )
    before, after = ({row["id"]: row for row in rows} for rows in (right, wrong))
    found = by_name(moves(a, b, before, after))
    share, score = found["pope: correct_pct"], found["pope: score"]
    assert (share.p, share.verdict) == (2 / 2**8, BEYOND)
    assert share.after - share.before == pytest.approx(-100 / 3)
    assert share.basis == score.basis == "24 questions, paired"
    assert a.tasks is not None
    assert b.tasks is not None
    rule = difference(b.tasks["pope"], a.tasks["pope"], other, own)
    assert (score.low, score.high) == tuple(rule["delta_ci95"])
    assert (score.p, score.verdict) == (None, BEYOND)

    del after["pope/0"]
    unpaired = by_name(moves(a, b, before, after))["pope: score"]
    assert (unpaired.verdict, unpaired.basis) == (UNKNOWN, "no interval")
