"""bench=latency: phases of one answer, turns with the unpruned model, records, tables, plans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_llava as small
import torch
from PIL import ImageFile
from torch import nn

import asap_eval.timing.answer
from asap_eval.bench.bench import build_bench
from asap_eval.bench.language import plan
from asap_eval.cli import run as cli
from asap_eval.data.questions.pictures import open_pictures
from asap_eval.errors import BadValueError, DataError
from asap_eval.hosts import install
from asap_eval.method import build
from asap_eval.models import ModelSpec
from asap_eval.models.vlm import shape_of
from asap_eval.record import read_record
from asap_eval.timing.answer import timed_answer
from asap_eval.timing.speed import fastest_unpruned

Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def run(*given: str) -> tuple[int, list[str], str]:
        code = cli.main([*given, f"results={tmp_path / 'results'}"])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small models' four pictures, and a file that is none."""
    root = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(small.pictures()):
        picture.save(root / f"{number}.png")
    (root / "5.jpg").write_text("no picture")
    return root


class Clock:
    """One more second at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1
        return self.now


def test_phases_of_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start, the language model's first call, the first logits, the end: one look at each."""
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 0, 1)
    plain = small.generate(loaded, given, 5)
    monkeypatch.setattr(asap_eval.timing.answer, "time", Clock())
    out, phases = timed_answer(loaded.model, given, max_new_tokens=5)
    assert torch.equal(out, plain)
    assert phases._asdict() == {"encode": 1e3, "prefill": 2e3, "decode": 1e3, "answer": 3e3}
    assert not loaded.model.model.language_model._forward_pre_hooks


@small.on_both
@pytest.mark.parametrize("method", ["visionzip", "fastv"])
def test_a_timed_answer_is_the_answer(name: str, method: str) -> None:
    loaded, given = small.vlm(name), small.inputs(name, 2)
    with install(loaded.model, build(method, k=20)) as trace:
        trace.name_images(["a"])
        plain = small.generate(loaded, given, 5)
        trace.name_images(["a"])
        out, phases = timed_answer(loaded.model, given, max_new_tokens=5)
    assert torch.equal(out, plain)
    assert 0 < phases.encode < phases.prefill < phases.answer
    assert phases.answer == pytest.approx(phases.prefill + phases.decode)


def test_a_run_leaves_times_memory_and_work(command: Run, folder: Path) -> None:
    """Two batches of two and a broken picture: everything the interface names, and what it is."""
    given = (
        *("model=llava_tiny", "bench=latency", "method=visionzip", "k=20", f"data={folder}"),
        *("bench.question='What is this?'", "bench.new_tokens=4", "bench.warmup=3"),
    )
    code, out, err = command(*given, "batch_size=2")
    assert code == 0, err
    record = read_record(Path(out[-1]))
    rows = [json.loads(line) for line in Path(out[-1]).with_suffix(".samples.jsonl").open()]
    assert [row["error"] is None for row in rows] == [True] * 4 + [False]
    assert "is not an image" in rows[4]["error"]
    assert rows[4]["ms"] is None
    assert rows[0]["ms"] == rows[1]["ms"] != rows[2]["ms"]
    assert [row["memory_gb"] is None for row in rows] == [False, False, True, True, True]

    assert record.metrics is None
    assert record.latency_ms is not None
    assert set(record.latency_ms) == {"encode", "prefill", "decode", "answer"}
    for phase, marks in record.latency_ms.items():
        assert marks["p10"] <= marks["median"] <= marks["p90"], phase
    assert record.memory_gb is not None
    assert record.memory_gb["weights"] == pytest.approx(0.00166 * 4, rel=0.3)
    assert 0 < record.memory_gb["prefill"] <= record.memory_gb["answer"] * 1.01
    assert record.analysis is not None
    assert record.analysis["unpruned_memory_gb"]["answer"] > record.memory_gb["answer"]
    assert record.analysis["warmup"] == 3
    assert record.analysis["new_tokens_mean"] == 4
    assert record.analysis["decode_token_ms"] > 0
    assert record.speed is not None
    assert record.macs is not None
    assert record.speed["ideal"] == record.macs.baseline_g / record.macs.mean_g > 1
    share = record.speed["speedup"]["median"] / record.speed["ideal"]
    assert record.speed["share_of_ideal"] == share
    assert record.speed["rounds"] == 2
    assert record.speed["backend"]["batch_size"] == 2
    assert record.tokens is not None
    assert record.tokens.handed_to_llm == 20
    table = "\n".join(out)
    assert "speed-up" in table
    assert "published" not in table
    again, _, err = command(*given, "batch_size=2")
    assert again == 0
    assert "Already done" in err


def test_contenders_take_turns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A B B A over the batches, after the warm-up, which answers with both."""
    loaded = small.vlm("llava_tiny")
    bench: Any = build_bench("latency", question="Hi", new_tokens=2, warmup=2)
    samples = bench.open(str(folder), loaded, limit=4, sample="first")
    seen: list[str] = []
    plain = bench._installed

    def installed(loaded: Any, reducer: Any, asked: Any, seed: int) -> Any:
        seen.append(f"{reducer.name} {asked.ready[0].id}")
        return plain(loaded, reducer, asked, seed)

    monkeypatch.setattr(bench, "_installed", installed)
    monkeypatch.setattr(bench, "_peaks", lambda *_: {"prefill": 0.0, "answer": 0.0})
    batches = bench.batches(loaded, samples, batch_size=1)
    reducer = build("average_pool", k=16)
    assert len(list(bench.evaluate(loaded, reducer, batches, seed=0))) == 4
    warm, timed = seen[:4], seen[4:]
    plain_name = fastest_unpruned(next(loaded.model.parameters())).name
    assert [name.split()[0] for name in warm] == [plain_name, "average_pool"] * 2
    assert [name.split()[1] for name in warm] == ["picture/0"] * 2 + ["picture/1"] * 2
    first = [plain_name, "average_pool"]
    assert [name.split()[0] for name in timed] == [*first, *first[::-1]] * 2


def test_warming_goes_round_where_samples_are_few(folder: Path) -> None:
    loaded = small.vlm("llava_tiny")
    bench: Any = build_bench("latency", question="Hi", new_tokens=1, warmup=3)
    samples = bench.open(str(folder), loaded, limit=1, sample="first")
    rows = list(
        bench.evaluate(loaded, build("none"), bench.batches(loaded, samples, batch_size=1), seed=0)
    )
    assert len(rows) == 1
    assert rows[0][0]["steps"] == 0
    summary = bench.summarise(rows[0], bench.geometry(loaded), "full")
    assert summary.analysis["decode_token_ms"] is None
    assert summary.speed["ideal"] == 1
    assert summary.macs.reduction_pct == 0


def test_a_budget_is_searched_without_the_clock(command: Run, folder: Path) -> None:
    code, out, err = command(
        *("model=llava_tiny", "bench=latency", "method=visionzip", "budget=tokens", "target=30"),
        *(f"data={folder}", "bench.question=Hi", "bench.new_tokens=2", "bench.warmup=0"),
        *("limit=2", "budget.samples=2", "batch_size=1"),
    )
    assert code == 0, err
    record = read_record(Path(out[-1]))
    assert record.knob == 30
    assert record.tokens is not None
    assert record.tokens.handed_to_llm == 30
    assert record.latency_ms is not None


def test_what_cannot_be_timed_is_said(command: Run, folder: Path, tmp_path: Path) -> None:
    given = ("model=llava_tiny", "bench=latency", f"data={folder}", "bench.question=Hi")
    code, _, err = command(*given, "speed=true")
    assert code == 2
    assert "measures nothing else" in err
    code, _, err = command(*given, "bench.warmup=-1")
    assert code == 2
    assert "bench.warmup=-1" in err
    code, _, err = command("model=deit_tiny", "weights=random", *given[1:])
    assert code == 2
    assert "image model" in err
    (tmp_path / "empty").mkdir()
    for data, words in ((tmp_path / "empty", "no pictures"), (tmp_path / "gone", "no folder")):
        with pytest.raises(DataError, match=words):
            open_pictures(str(data), "Hi", limit=None, sample="first", new_tokens=None)
    with pytest.raises(BadValueError, match="limit=5"):
        open_pictures(str(folder), "Hi", limit=6, sample="first", new_tokens=None)
    chosen = open_pictures(str(folder), "Hi", limit=2, sample="spread", new_tokens=None)
    assert chosen.ids == ["picture/0", "picture/2"]


def test_half_a_picture_is_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where another library has told Pillow to take what there is."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = (folder / "0.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "whole.png").write_bytes(content)
    opened = open_pictures(str(tmp_path), "Hi", limit=None, sample="first", new_tokens=None)
    documents = opened.asked[0].documents
    with pytest.raises(DataError, match="cannot be decoded"):
        documents.picture(0)
    assert documents.picture(1).size[0] > 0


@pytest.mark.parametrize("name", ["table4", "table8", "table9"])
def test_experiments_beside_the_papers_figures(
    name: str, command: Run, folder: Path, tmp_path: Path
) -> None:
    """Published figures stand in every row; those of another model are not comparable."""
    model = "llava_tiny" if name == "table4" else "llava_next_tiny"
    given = (f"experiment={name}", f"model={model}", f"data={folder}", "bench.question=Hi")
    small_one = ("limit=1", "bench.new_tokens=2", "bench.warmup=0")
    out = command(*given, *small_one, "method=none", "wide=true")[1]
    text = " ".join(" ".join(out).split())
    paper = {"table4": ("Table 4", "79", "120"), "table8": ("Table 8", "234", "268"),
             "table9": ("Table 9", "43.6", "311")}[name]  # fmt: skip
    for part in (*paper, "published for", "A100's"):
        assert part in text
    code, out, err = command(*given, *small_one, "plan=true")
    assert code == 0, err
    assert sum("on latency" in line for line in out) >= 6


def test_stages_stand_in_the_papers_order(command: Run, folder: Path) -> None:
    """Walk, early stop, pooling, second stage: each does less or as much, its own work beside."""
    code, out, err = command(
        *("experiment=table9", "model=llava_next_tiny", f"data={folder}", "bench.question=Hi"),
        *("limit=1", "bench.new_tokens=1", "bench.warmup=0", "method=asap", "wide=true"),
    )
    assert code == 0, err
    records = [read_record(Path(line)) for line in out if line.endswith(".json")]
    walk, stopped, pooled, stage2 = records[:4]
    own = [record.macs.method_g for record in records if record.macs]
    assert own[0] > own[1] == own[2] == own[3] > 0
    work = [record.macs.mean_g for record in (stopped, pooled, stage2) if record.macs]
    assert work == sorted(work, reverse=True)
    assert stopped.tokens is not None
    assert stopped.tokens.kept_min == 144  # the walk stops, and no token goes
    assert walk.macs is not None
    assert walk.macs.mean_g == walk.macs.baseline_g
    first = " ".join(out).index("+ Lazy Random Walk")
    assert first < " ".join(out).index("+ detect stop") < " ".join(out).index("+ ASAP Pooling")


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache of a hub's mirror, without anything."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror")


def test_a_plan_of_a_model_that_is_not_here(
    nothing_here: None, command: Run, tmp_path: Path
) -> None:
    """Counts and sizes from shapes alone, and every thing that is missing; nothing is loaded."""
    given = ("bench=vlm", "method=visionzip", "budget=tokens", "batch_size=1", "dtype=float16")
    code, out, err = command("model=llava15_7b", *given, "target=64", "plan=true")
    text = "\n".join(out)
    assert code == 1, err
    assert "pope 9000" in text
    assert "576 image tokens of 1 crop unpruned, 64 handed to the language model" in text
    assert "weights 14.13, cache 0.34 unpruned (0.07 with the method)" in text
    assert "14.1 GB of weights in fp16 (by their shapes) from http://mirror/llava-hf/" in text
    assert "missing: weights: llava-hf/llava-1.5-7b-hf" in text
    assert "missing: data: not in the local cache: pope, gqa" in text
    code, out, _ = command(
        *("model=llava_next_7b", "bench=latency", "method=fastv", "limit=100", "batch_size=1"),
        *("plan=true", f"data={tmp_path}"),
    )
    text = "\n".join(out)
    assert code == 1
    assert "pope 100 " in text
    assert "2928 image tokens of 5 crops unpruned, all handed over; 'fastv' acts inside" in text
    assert "has nothing of pope" in text
    if not torch.cuda.is_available():
        code, out, _ = command("model=llava15_7b", *given, "target=64", "device=cuda", "plan=true")
        assert "there is no GPU here" in "\n".join(out)
    # What does not fit is refused, whatever is missing.
    assert command("model=llava15_7b", "bench=vlm", "method=visionzip", "speed=true",
                   "plan=true")[0] == 2  # fmt: skip


def test_the_plan_of_a_table_builds_its_model_once(
    command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(spec: ModelSpec) -> nn.Module:
        made.append(spec.family)
        return shape_of(spec)

    plan._shapes.cache_clear()
    monkeypatch.setattr(plan, "shape_of", counted)
    out = command("model=llava_tiny", "bench=vlm", "methods=none,scope,dart", "plan=true")[1]
    assert sum("image tokens of 1 crop unpruned" in line for line in out) == 3
    assert made == ["llava"]


def test_a_plan_of_a_model_that_is_here(command: Run, folder: Path) -> None:
    code, out, err = command(
        *("model=llava_next_tiny", "bench=latency", "method=visionzip", "k=10", f"data={folder}"),
        *("bench.question=Hi", "limit=3", "batch_size=1", "plan=true"),
    )
    text = "\n".join(out)
    assert code == 0, err
    assert "744 image tokens of 5 crops unpruned, 50 handed to the language model" in text
    assert "3 samples (first)" in text
    assert "will be written" in text
    assert "missing" not in text
    assert "published sizes" not in text
