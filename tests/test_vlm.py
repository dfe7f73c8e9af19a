"""bench=vlm on the command line with the small models: tasks, resumption, failures, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import test_cli
import test_runner
import torch
from cases import small_clip
from hub_stand_in import Hub
from hub_stand_in import hub as hub  # a fixture
from test_cli import Run

from asap_eval.bench.bench import build_bench
from asap_eval.bench.language import rows as vlm_rows
from asap_eval.cli import main
from asap_eval.data.questions import lmms
from asap_eval.data.questions.documents import open_documents
from asap_eval.data.questions.question_set import open_questions
from asap_eval.data.questions.tasks import PAPER, TASKS, chosen
from asap_eval.errors import BadValueError, DataError, UnsupportedModelError
from asap_eval.record import RunRecord, read_record
from asap_eval.record.journal import Journal, Row

command = test_cli.command

TINY = ("model=llava_tiny", "bench=vlm", "bench.new_tokens=3", "batch_size=4")
NEXT = ("model=llava_next_tiny", *TINY[1:])


def rows_of(path: Path) -> list[Row]:
    return Journal(path.with_name(path.stem + ".samples.jsonl")).read()


def flat(text: str) -> str:
    return " ".join(text.split())


def test_all_tasks_end_to_end(command: Run, questions: Path, tmp_path: Path) -> None:
    """A budget of 64 tokens, the unpruned model beside it, every task with split and scorer."""
    assert build_bench("vlm").tasks == list(PAPER)  # where none is named
    given = (*TINY, f"data={questions}", "method=visionzip", "budget=tokens", "target=64")
    code, out, err = command(*given, "budget.samples=11", f"tasks=[{','.join(TASKS)}]")
    assert code == 0, err
    path = Path(out[-1])
    record, rows = read_record(path), rows_of(path)
    assert record.provenance.calibration is not None
    assert (record.knob, record.provenance.calibration.evaluated) == (64, 64)
    assert record.tasks is not None
    assert record.analysis is not None
    assert record.tokens is not None
    assert record.macs is not None
    assert record.baseline is not None
    assert list(record.tasks) == list(TASKS)
    for name, block in record.tasks.items():
        assert block["split"] == TASKS[name].split
        assert block["scorer"].startswith("lmms-eval 0.7.3: ")
        assert (block["n"], block["failed"]) == (sum(r["task"] == name for r in rows), 0)
        assert block["delta"] == block["score"] - block["baseline"]
        assert len(block["delta_ci95"]) == 2
    assert {"f1_adversarial", "f1_popular", "f1_random", "pope_accuracy"} <= set(
        record.tasks["pope"]
    )
    assert (record.tokens.handed_to_llm, record.tokens.llm_layer_mean) == (64, 64)
    assert (record.tokens.kept_min, record.tokens.kept_max) == (63, 63)  # and the class token
    assert record.metrics is None
    assert record.baseline.top1 is None
    whole = read_record(next((tmp_path / "results").glob("llava_tiny-none-*.json")))
    assert whole.tokens is not None
    assert whole.macs is not None
    assert whole.analysis is not None
    assert record.baseline.key == whole.key
    assert whole.tokens.handed_to_llm == 144
    assert whole.macs.reduction_pct == pytest.approx(0, abs=1e-9)
    assert record.macs.baseline_g == whole.macs.mean_g
    parts, before = (r.analysis["macs_by_part_g"] for r in (record, whole))
    assert parts["tower"] == before["tower"]  # what it hands on is compressed after the tower
    assert parts["prefill"] < before["prefill"]
    assert parts["projector"] == pytest.approx(before["projector"] * 64 / 144)
    total = sum(parts[name] for name in ("tower", "projector", "prefill"))
    assert record.macs.mean_g == pytest.approx(total)
    printed = flat("\n".join(out))
    for word in (*TASKS, "unpruned", "Avg", "Rel", "random weights"):
        assert word in printed, word
    assert record.provenance.weights["trained"] is False
    assert not (tmp_path / "submissions").exists()
    assert "utils:mme" not in err


def test_counts_of_a_picture_with_tiles(command: Run, questions: Path) -> None:
    """LLaVA-NeXT's budget is of five crops; the ledger has what each picture really handed on."""
    given = (f"data={questions}", "tasks=gqa", "method=visionzip", "budget=tokens", "target=160")
    code, out, _ = command(*NEXT, *given)
    assert code == 0
    record, rows = read_record(Path(out[-1])), rows_of(Path(out[-1]))
    assert record.knob == 32
    crops = [len(row["tokens"]) for row in rows]
    assert min(crops) < 5 == max(crops)
    assert [row["handed_to_llm"] for row in rows] == [32 * count for count in crops]
    assert record.analysis is not None
    assert record.analysis["crops_mean"] == sum(crops) / 4
    whole = rows_of(next(Path("results").glob("llava_next_tiny-none-*.json")))
    for row, before in zip(rows, whole, strict=True):
        assert row["image_tokens"] == before["image_tokens"] == before["handed_to_llm"] > 144
        assert row["unpruned_macs"] == before["unpruned_macs"] == before["model_macs"]


def test_a_method_in_the_language_model(command: Run, questions: Path) -> None:
    given = (*TINY, f"data={questions}", "tasks=[gqa,mme]", "method=fastv")
    code, out, _ = command(*given, "k=20")
    assert code == 0
    record = read_record(Path(out[-1]))
    assert record.fired is not None
    assert record.tokens is not None
    assert list(record.fired.histogram) == [str(layer) for layer in range(1, 19)]
    assert record.fired.never == 0
    assert record.tokens.handed_to_llm == 144
    assert record.tokens.llm_layer_mean is not None
    assert 20 < record.tokens.llm_layer_mean < 144
    entries, whole = record.tokens.cached_entries, record.tokens.cached_pct
    assert entries is not None
    assert whole is not None
    assert 0 < whole < 100
    printed = flat("\n".join(out))
    for head in ("tokens", "mean", "KV %", "MACs %"):
        assert head in printed, head


def test_budgets_of_a_method_in_the_language_model(command: Run, questions: Path) -> None:
    """The mean over the layers can be steered; what the first one gets cannot, and that is said."""
    given = (*TINY, f"data={questions}", "tasks=gqa", "budget.samples=2", "budget=tokens")
    code, out, err = command(*given, "method=fastv", "target=40")
    assert code == 0, err
    record = read_record(Path(out[-1]))
    assert record.tokens is not None
    assert record.job.budget is not None
    assert record.job.budget.count == "layer_mean"
    assert record.tokens.llm_layer_mean == pytest.approx(40, abs=0.5)
    assert record.tokens.handed_to_llm == 144
    assert record.knob == 27  # two of 18 layers see 144
    printed = flat("\n".join(out))
    assert "fastv: some tokens are removed inside the language model" in printed
    assert "without a budget" not in printed
    code, _, err = command(*given, "method=fastv", "target=40", "budget.count=handed")
    assert code == 1
    assert "acts behind it. Use budget.count=layer_mean" in flat(err)
    code, out, err = command(*given, "method=divprune", "target=40", "budget.count=handed")
    assert code == 0, err
    record = read_record(Path(out[-1]))
    assert record.tokens is not None
    assert (record.tokens.handed_to_llm, record.tokens.llm_layer_mean) == (40, 40)
    assert record.knob == 40
    code, _, err = command(*given, "method=divprune", "target=40", "budget.count=all")
    assert code == 2
    assert "handed" in flat(err)


@pytest.mark.parametrize(("target", "knob"), [(64, 64), (62, 63)])
def test_a_budget_of_a_method_that_takes_some_counts_alone(
    command: Run, questions: Path, target: int, knob: int
) -> None:
    """No grid of 62 cells fits 12 x 12 patches: 60 and 63 are next to it."""
    given = (*TINY, f"data={questions}", "tasks=gqa", "method=average_pool", "limit=1")
    code, out, _ = command(*given, "budget=tokens", f"target={target}", "budget.samples=1")
    assert code == 0
    record = read_record(Path(out[-1]))
    calibration = record.provenance.calibration
    assert calibration is not None
    assert (record.knob, calibration.reached, calibration.disjoint) == (knob, knob, True)
    assert (calibration.note is None) == (target == knob)
    assert record.tokens is not None
    assert record.tokens.handed_to_llm == knob


def test_a_method_that_reads_the_question(command: Run, questions: Path) -> None:
    given = (*TINY, f"data={questions}", "tasks=gqa", "limit=1", "method=cdpruner")
    budget = ("budget=tokens", "target=20")
    code, _, err = command(*given, *budget)
    assert code != 0
    assert "give method.clip=" in flat(err)
    code, out, _ = command(*given, *budget, f"method.clip={small_clip()}")
    assert code == 0
    record = read_record(Path(out[-1]))
    assert record.tokens is not None
    assert record.tokens.handed_to_llm == 20


@pytest.mark.parametrize("method", ["visionzip", "random"])
def test_a_batch_answers_as_its_samples(command: Run, questions: Path, method: str) -> None:
    given = (
        *TINY[:3],
        f"data={questions}",
        "tasks=[vqav2_val,pope]",
        "limit=6",
        f"method={method}",
    )
    knob = ("k=40",) if method == "visionzip" else ("k=0.4", "method.rest=drop")
    found = []
    for size in (1, 4):
        code, out, _ = command(*given, *knob, f"batch_size={size}")
        assert code == 0
        found.append((rows_of(Path(out[-1])), read_record(Path(out[-1])).tasks))
    assert found[0] == found[1]


# Which questions


def test_a_limit_is_of_each_task_and_leaves_groups_whole(questions: Path) -> None:
    names = ("gqa", "mme", "mmbench_en_dev_static")
    for sample, mme in (("first", [0, 1, 2, 3]), ("spread", [0, 1, 4, 5])):
        found = open_questions(chosen(names), str(questions), limit=3, sample=sample)  # type: ignore[arg-type]
        gqa, pairs, circles = found.asked
        assert len(gqa.places) == 3
        assert pairs.places == mme
        indices = [int(circles.documents.text(p)["index"]) for p in circles.places]
        for first in {index % 1_000_000 for index in indices}:
            rows = [int(d["index"]) for d in circles.documents.texts()]
            whole = [index for index in rows if index % 1_000_000 == first]
            assert set(whole) <= set(indices)
        assert 3 <= len(indices) < 3 + 4
    others, disjoint = found.calibration(4)
    assert disjoint
    assert not set(others.ids) & set(found.ids)
    assert others.new_tokens == 1
    whole = open_questions(chosen(names), str(questions), limit=None, sample="first")
    again, disjoint = whole.calibration(4)
    assert not disjoint
    assert set(again.ids) <= set(whole.ids)


def test_no_batch_holds_two_tasks(questions: Path) -> None:
    found = open_questions(chosen(["gqa", "mme"]), str(questions), limit=None, sample="first")
    assert found.ends(3) == [3, 4, 7, 10, 12]


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_killed_in_the_middle_a_run_resumes_to_the_same_record(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*TINY[:3], f"data={questions}", "tasks=[vqav2_val,pope]", "batch_size=3"]
    arguments += ["method=random", "k=0.5", "method.rest=drop"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = test_runner.start(cut, arguments)
    samples = test_runner.stop(process, cut, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 3 <= samples.read_bytes().count(b"\n") < 28
    path = samples.with_name(samples.name.replace(".samples.jsonl", ".json"))
    assert json.loads(path.read_text())["status"] == "running"
    with samples.open("ab") as file:  # half a batch, and a line that was being written
        file.write(json.dumps({"id": "pope/2"}).encode())
    for folder in (cut, whole):
        assert test_runner.here(folder, arguments, monkeypatch) == 0
    for mine in (cut / "results").glob("*.json"):
        theirs = whole / "results" / mine.name
        assert test_runner.timeless(read_record(mine)) == test_runner.timeless(read_record(theirs))
    for mine in (cut / "results").glob("*.samples.jsonl"):
        assert mine.read_bytes() == (whole / "results" / mine.name).read_bytes()


# Failures


def changed(
    folder: Path, out: Path, task: str, change: Callable[[int, dict[str, Any]], Any]
) -> Path:
    """A folder with one task's questions, every row passed through ``change`` (None = left out)."""
    from datasets import Dataset

    documents = open_documents(TASKS[task], str(folder))
    rows = [change(at, dict(row)) for at, row in enumerate(documents.rows)]
    out.mkdir(exist_ok=True)
    Dataset.from_list([row for row in rows if row]).to_parquet(out / f"{task}.parquet")
    return out


def test_samples_that_fail_are_wrong_listed_and_an_exit_code(
    command: Run,
    questions: Path,
    tmp_path: Path,
) -> None:
    def broken(at: int, row: dict[str, Any]) -> dict[str, Any]:
        picture = row["image"]
        half = {**picture, "bytes": picture["bytes"][: len(picture["bytes"]) // 2]}
        wrong = {1: [], 2: [picture, picture], 5: [half], 7: [{**picture, "bytes": b"no image"}]}
        return {**row, "image": wrong.get(at, [picture])}

    data = changed(questions, tmp_path / "broken", "pope", broken)
    given = (*TINY, f"data={data}", "tasks=pope", "limit=9", "method=visionzip", "k=30")
    code, out, err = command(*given)
    assert code == 1
    assert "4 of 9 samples failed and count as wrong" in flat(err)
    path = Path(out[-1])
    record, rows = read_record(path), rows_of(path)
    assert record.status == "done"
    assert record.tasks is not None
    assert (record.tasks["pope"]["n"], record.tasks["pope"]["failed"]) == (9, 4)
    reasons = {f["id"]: f["message"] for f in record.provenance.failures}
    assert list(reasons) == ["pope/1", "pope/2", "pope/5", "pope/7"]
    for name, words in zip(
        reasons, ("no picture", "2 pictures", "cannot be decoded", "not an image"), strict=True
    ):
        assert words in reasons[name]
        assert reasons[name].startswith(name)
    for row in rows:
        assert row["correct"] is False or row["error"] is None
    assert len(rows) == 9
    code, _, _ = command(*given)  # reused: still not a clean run
    assert code == 1


def test_a_picture_that_the_processor_refuses_fails_alone(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asap_eval.models import LoadedVlm

    plain = LoadedVlm.inputs

    def inputs(self: LoadedVlm, pictures: Any, texts: Any) -> dict[str, Any]:
        if any("triangle" in text for text in texts):
            raise ValueError("odd picture")
        return plain(self, pictures, texts)

    monkeypatch.setattr(LoadedVlm, "inputs", inputs)
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, f"data={questions}", "tasks=pope", "limit=8"]
    assert main(arguments) == 1
    rows = rows_of(next((tmp_path / "results").glob("*.json")))
    failed = [row["id"] for row in rows if row["error"]]
    assert failed
    assert len(failed) < len(rows)
    assert all("odd picture" in row["error"] for row in rows if row["error"])


Fails = Callable[[list[str]], Exception | None]


def failing(monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    """The model raises what ``fails`` says of a batch's ids."""
    plain = vlm_rows.answers

    def answers(*args: Any, **kwargs: Any) -> Any:
        if (error := fails(list(args[5]))) is not None:
            raise error
        return plain(*args, **kwargs)

    monkeypatch.setattr(vlm_rows, "answers", answers)


def test_a_question_that_the_model_fails_on_fails_alone(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run
) -> None:
    """The others of its batch are answered as ever; the record is whole, the exit code is not 0."""
    given = (*TINY, f"data={questions}", "tasks=pope", "limit=8")
    assert command(*given, "results=plain")[0] == 0
    before = rows_of(next((tmp_path / "plain").glob("*.json")))
    failing(monkeypatch, lambda ids: IndexError("off\nby") if "pope/2" in ids else None)
    code, out, err = command(*given)
    assert code == 1
    said = "pope/2: the model fails on it: IndexError: off"
    assert f"1 of 8 samples failed and count as wrong: {said}" in flat(err)
    record, rows = read_record(Path(out[-1])), rows_of(Path(out[-1]))
    assert record.status == "done"
    assert record.provenance.failures == [{"id": "pope/2", "message": said}]
    assert record.tasks is not None
    assert (record.tasks["pope"]["n"], record.tasks["pope"]["failed"]) == (8, 1)
    assert [row for row in rows if not row["error"]] == before[:2] + before[3:]
    assert rows[2]["correct"] is False


EVERYBODYS: dict[str, tuple[Fails, str]] = {
    "all": (lambda ids: ValueError("broken reducer"), "Each of the first 8 samples fails alike"),
    "batch": (lambda ids: ValueError("bad stack") if len(ids) > 1 else None, "bad stack"),
    "memory": (lambda ids: torch.OutOfMemoryError("full"), "Out of memory on cpu at batch_size=4"),
    "cpu": (
        lambda ids: RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
        "Out of memory on cpu at batch_size=4",
    ),
    "device": (lambda ids: torch.AcceleratorError("assert"), "assert"),
    "setting": (
        lambda ids: BadValueError("k is too small") if "pope/5" in ids else None,
        "k is too small",
    ),
}


@pytest.mark.parametrize("case", EVERYBODYS)
def test_an_error_of_the_model_is_everybody_s(
    case: str, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken method must not show as low accuracy, nor full memory as wrong answers."""
    fails, words = EVERYBODYS[case]
    failing(monkeypatch, fails)
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, f"data={questions}", "tasks=pope", "limit=8"]) != 0
    record: RunRecord = read_record(next((tmp_path / "results").glob("*.json")))
    assert record.status == "failed"
    assert words in str(record.error)


# Refusals

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "task": (("tasks=[popes]",), "Unknown task 'popes'. Did you mean pope?"),
    "twice": (("tasks=[pope,pope]",), "name each task once"),
    "both": (("tasks=pope", "bench.tasks=[gqa]"), "mean the same"),
    "budget": (
        ("tasks=gqa", "method=visionzip", "budget=tokens", "target=700"),
        "The target 700 tokens cannot be met: with k from 2 to 145",
    ),
    "crop": (
        ("tasks=gqa", "method=visionzip", "budget=tokens", "target=0.5"),
        "a sample of llava_tiny has one crop, and 'visionzip' leaves at least one token of each. "
        "Give target=1 or more.",
    ),
    "knob": (("tasks=gqa", "method=visionzip", "k=400"), "give 2 to 145"),
    "limit": (("tasks=gqa", "limit=5"), "no task of"),
    "part": (("tasks=gqa", "limit=0.5"), "give a whole number"),
    "image model": (("tasks=gqa", "model=test_vit", "weights=random"), "is an image model"),
    "speed": (("tasks=gqa", "speed=true"), "speed=true is not for bench=vlm"),
    "bound": (("bench.new_tokens=0",), "bench.new_tokens=0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_is_allowed(command: Run, questions: Path, case: str) -> None:
    extra, words = REFUSED[case]
    taken = {text.partition("=")[0] for text in extra}
    kept = [text for text in TINY if text.partition("=")[0] not in taken]
    code, _, err = command(*kept, f"data={questions}", *extra)
    assert code != 0
    assert words in flat(err)


def test_a_budget_below_the_number_of_crops_is_refused_before_a_search(
    command: Run, questions: Path
) -> None:
    given = (
        *NEXT,
        f"data={questions}",
        "tasks=gqa",
        "limit=1",
        "budget=tokens",
        "budget.samples=1",
    )
    says = (
        "budget=tokens target=4: a sample of llava_next_tiny has up to 5 crops, and 'vispruner' "
        "leaves at least one token of each. Give target=5 or more."
    )
    for more in ((), ("plan=true",)):
        code, _, err = command(*given, "method=vispruner", "target=4", *more)
        assert code == 1
        assert says in flat(err)
        assert "Searching" not in err
    for method, target in (
        ("vispruner", 5),
        ("divprune", 4),
    ):  # the latter takes all crops together
        code, out, err = command(*given, f"method={method}", f"target={target}")
        assert code == 0, err
        assert read_record(Path(out[-1])).knob == {"vispruner": 1, "divprune": 4}[method]


def test_tasks_are_for_this_benchmark_alone(command: Run) -> None:
    code, _, err = command("model=test_vit", "weights=random", "data=x", "tasks=[pope]")
    assert code == 2
    assert "tasks= is for bench=vlm" in flat(err)


@pytest.mark.parametrize("method", ["visionzip", "average_pool", "fastv"])
def test_a_classifier_has_nothing_that_these_methods_act_on(
    command: Run,
    method: str,
) -> None:
    code, _, err = command("model=test_vit", "weights=random", "data=x", f"method={method}")
    assert code == 1
    assert f"Method '{method}' acts on what a tower hands to a language model" in flat(err)


def test_data_that_is_not_there(questions: Path, tmp_path: Path) -> None:
    pope = TASKS["pope"]
    for data, words in (
        (tmp_path / "absent", "is no folder"),
        (tmp_path, "neither pope.parquet nor parquet files in a folder pope/"),
    ):
        with pytest.raises(DataError, match=words):
            open_documents(pope, str(data))
    data = changed(questions, tmp_path / "lacks", "pope", lambda _, row: _without(row, "category"))
    with pytest.raises(DataError, match="lacks category for task pope; its columns are"):
        open_documents(pope, str(data))
    (tmp_path / "pope.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        open_documents(pope, str(tmp_path))


def _without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


BROKEN: dict[str, tuple[str, Callable[[int, dict[str, Any]], Any], str]] = {
    "answer": ("pope", lambda _, row: {**row, "answer": "perhaps"}, "pope/0.*not yes or no"),
    "pair": ("mme", lambda at, row: None if at == 3 else row, "has 1 questions"),
    "choice": ("scienceqa_img", lambda _, row: {**row, "answer": 7}, "its answer is 7"),
    "voices": (
        "vqav2_val",
        lambda _, row: {**row, "answers": [{"answer": "2"}] * 10},
        "two of its answers are the same entry",
    ),
    "people": ("vizwiz_vqa_val", lambda _, row: {**row, "answers": []}, "no answers"),
    "letter": ("mmbench_en_dev_static", lambda _, row: {**row, "answer": "E"}, "not A, B, C or D"),
    "circle": (
        "mmbench_en_dev_static",
        lambda at, row: None if at == 0 else row,
        "the first is below 1000000",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_questions_that_cannot_be_scored(case: str, questions: Path, tmp_path: Path) -> None:
    task, change, words = BROKEN[case]
    data = changed(questions, tmp_path / "broken", task, change)
    with pytest.raises(DataError, match=words):
        open_questions([TASKS[task]], str(data), limit=None, sample="first")


def test_the_hub_s_files_are_read_as_downloaded(questions: Path, tmp_path: Path) -> None:
    """GQA's two configs in folders, files of other splits beside them."""
    from datasets import Dataset

    rows = list(open_documents(TASKS["gqa"], str(questions)).rows)
    apart = [{"id": row["imageId"], "image": row["image"]} for row in reversed(rows)]
    asked = [_without(row, "image") for row in rows]
    for config, content in (
        ("testdev_balanced_images", apart),
        ("testdev_balanced_instructions", asked),
    ):
        folder = tmp_path / "gqa" / config
        folder.mkdir(parents=True)
        Dataset.from_list(content).to_parquet(folder / "testdev-00000-of-00001.parquet")
        Dataset.from_list([{"x": 1}]).to_parquet(folder / "train-00000-of-00001.parquet")
    found = open_documents(TASKS["gqa"], str(tmp_path))
    alone = open_documents(TASKS["gqa"], str(questions))
    assert [found.text(at) for at in range(4)] == [alone.text(at) for at in range(4)]
    for at in range(4):
        assert found.picture(at).tobytes() == alone.picture(at).tobytes()
    lost = dataclasses.replace(found, apart=found.apart.select([0, 1]))
    with pytest.raises(DataError, match="no picture with id n0"):
        lost.picture(0)


def test_without_data_the_hub_is_asked(command: Run, hub: Hub) -> None:
    hub.status = 503
    code, _, err = command(*TINY, "tasks=[gqa]")
    assert code == 1
    place = f"{hub.url}/datasets/lmms-lab-encoder/GQA"
    assert f"data=hub: lmms-lab-encoder/GQA could not be fetched from {place}" in flat(err)
    assert "503 (service unavailable)" in flat(err)
    assert "give its folder: data=<folder>" in flat(err)


def test_lmms_eval_is_needed_and_of_one_release(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(lmms, "version", absent)
    with pytest.raises(UnsupportedModelError, match=r"pip install 'asap-eval\[vlm\]'"):
        lmms.check_lmms_eval()
    monkeypatch.setattr(lmms, "version", lambda name: "0.8.0")
    with pytest.raises(UnsupportedModelError, match=r"lmms-eval 0\.8\.0 is installed"):
        lmms.check_lmms_eval()


def test_nobody_else_imports_lmms_eval() -> None:
    """An ImageNet user has no [vlm] extra."""
    import subprocess

    code = (
        "import sys, asap_eval.cli.run, asap_eval.cli.ls, asap_eval.cli.report\n"
        "assert asap_eval.cli.ls.main(['benchmarks']) == 0\n"
        "assert not {'lmms_eval', 'datasets', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "vlm" in done.stdout
