"""Runs: what they measure, what they leave, and how they survive being stopped."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from pictures import CLASSES, TINY, picture_folder
from project import ROOT

from asap_eval.bench.imagenet import ImageNet
from asap_eval.cli import main
from asap_eval.errors import AsapEvalError, BadValueError, DataError, UnsupportedModelError
from asap_eval.models import load_model
from asap_eval.record import Budget, Job, RunRecord, read_record, read_records
from asap_eval.record.journal import Journal, Row
from asap_eval.runner import Outcome, run
from asap_eval.runner.machine_errors import explained


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("data") / "pictures")


def job_of(pictures: Path, **changes: Any) -> Job:
    job = Job(model="test_vit", weights="random", data=str(pictures), batch_size=4)
    return dataclasses.replace(job, **changes)


def asap(pictures: Path, **changes: Any) -> Job:
    """Options under which random weights fire at once."""
    return job_of(pictures, method="asap", k=3.0, params={"tau": 1.0, "m": 2}, **changes)


def rows_of(outcome: Outcome) -> list[Row]:
    return Journal(outcome.path.with_name(str(outcome.record.samples))).read()


def timeless(record: RunRecord) -> dict[str, Any]:
    """A record without its times."""
    body = dataclasses.asdict(record)
    for name in ("started", "duration_s"):
        assert body["provenance"].pop(name) is not None
    return body


# What is measured


def test_none_has_the_models_own_answers(pictures: Path, tmp_path: Path) -> None:
    outcome = run(job_of(pictures), results=tmp_path)
    record = outcome.record
    assert record.status == "done"
    assert (record.baseline, record.paired, record.speed) == (None, None, None)
    assert record.metrics is not None
    assert (record.metrics.n, record.metrics.failed) == (12, 0)
    assert record.macs is not None
    assert record.macs.reduction_pct == 0 == record.macs.method_g
    assert record.tokens is not None
    assert (record.tokens.kept_min, record.tokens.kept_max) == (100, 100)
    assert record.tokens.layer_mean == 100
    assert record.fired is not None
    assert record.fired.never == 12
    assert record.provenance.weights["trained"] is False
    assert read_record(outcome.path) == record

    from PIL import Image

    from asap_eval.models import load_model

    loaded = load_model("test_vit", weights="random")
    for row in rows_of(outcome):
        with Image.open(pictures / row["id"]) as image:
            logits = loaded.model(loaded.transform(image.convert("RGB"))[None])
        assert int(logits.argmax()) == row["prediction"]


def test_the_blocks_say_what_the_rows_say(pictures: Path, tmp_path: Path) -> None:
    outcome = run(asap(pictures), results=tmp_path)
    record, rows = outcome.record, rows_of(outcome)
    assert [row["id"].split("/")[0] for row in rows] == [name for name in CLASSES for _ in range(4)]
    assert record.metrics is not None
    assert record.metrics.top1 == pytest.approx(100 * sum(r["correct"] for r in rows) / 12)
    kept = [row["tokens"] for row in rows]
    assert record.tokens is not None
    assert (record.tokens.kept_min, record.tokens.kept_max) == (min(kept), max(kept))
    assert min(kept) < 100
    assert record.tokens.kept_mean == pytest.approx(sum(kept) / 12)
    assert record.fired is not None
    assert record.fired.never + sum(record.fired.histogram.values()) == 12
    assert list(record.fired.histogram) == [str(block) for block in range(1, 7)]
    assert record.macs is not None
    whole = record.macs.baseline_g
    own, method = (sum(r[f"{k}_macs"] for r in rows) / 12e9 for k in ("model", "method"))
    assert (record.macs.mean_g, record.macs.method_g) == pytest.approx((own, method))
    assert record.macs.reduction_pct == pytest.approx(100 * ((own + method) / whole - 1))
    assert record.macs.reduction_model_pct == pytest.approx(100 * (own / whole - 1))
    assert record.paired is not None
    assert record.baseline is not None
    assert record.paired.delta_top1 == pytest.approx(record.metrics.top1 - record.baseline.top1)


def test_batches_and_workers_change_no_answer(pictures: Path, tmp_path: Path) -> None:
    def answers(batch_size: int, workers: int = 0) -> list[tuple[Any, ...]]:
        job = asap(pictures, batch_size=batch_size)
        rows = rows_of(run(job, results=tmp_path / f"{batch_size}-{workers}", workers=workers))
        return [(row["prediction"], row["fired"], row["tokens"], row["id"]) for row in rows]

    assert answers(1) == answers(5) == answers(12) == answers(5, workers=2)


def test_options_are_recorded_whole_and_defaults_make_no_other_job(
    pictures: Path, tmp_path: Path
) -> None:
    job = job_of(pictures, method="random", params={"layer": 2}, limit=4)
    first = run(job, results=tmp_path)
    assert first.record.job.k == 0.7
    assert first.record.job.params == {"layer": 2, "rest": "pool", "match": None}
    same = dataclasses.replace(job, k=0.7, params={"layer": 2, "rest": "pool"})
    assert run(same, results=tmp_path).path == first.path
    by_option = dataclasses.replace(job, params={"layer": 2, "k": 0.7})
    assert run(by_option, results=tmp_path).path == first.path
    assert run(dataclasses.replace(job, k=0.6), results=tmp_path).path != first.path


def test_one_baseline_serves_all_methods_and_seeds(pictures: Path, tmp_path: Path) -> None:
    jobs = [job_of(pictures, method="random", seed=seed, limit=4) for seed in (0, 1)]
    records = [run(job, results=tmp_path).record for job in jobs]
    assert records[0].baseline == records[1].baseline
    assert records[0].key != records[1].key
    found = [record.job.method for _, record in read_records(tmp_path)[0]]
    assert sorted(found) == ["none", "random", "random"]


def test_a_control_copies_the_counts_of_a_record(pictures: Path, tmp_path: Path) -> None:
    first = run(asap(pictures, limit=4), results=tmp_path)
    control = job_of(pictures, method="random", params={"match": str(first.path)}, limit=4)
    second = run(control, results=tmp_path)
    for ours, theirs in zip(rows_of(first), rows_of(second), strict=True):
        assert (ours["fired"], ours["tokens"]) == (theirs["fired"], theirs["tokens"])


def test_speed_fills_its_block(pictures: Path, tmp_path: Path) -> None:
    record = run(job_of(pictures, method="random", speed=True), results=tmp_path).record
    assert record.speed is not None
    assert record.speed["rounds"] >= 30
    assert record.speed["share_of_ideal"] == pytest.approx(
        record.speed["speedup"]["median"] / record.speed["ideal"]
    )
    with pytest.raises(BadValueError, match="batch_size=4"):
        run(job_of(pictures, speed=True, limit=3), results=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_unreadable_images_are_wrong_listed_and_kept(tmp_path: Path) -> None:
    data = picture_folder(tmp_path / "data")
    bad = [data / CLASSES[0] / f"{n:03d}.png" for n in range(4)] + [data / CLASSES[1] / "002.png"]
    for path in bad:  # the whole of one batch, and one in the middle of another
        path.write_bytes(path.read_bytes()[:60])
    record = run(asap(data), results=tmp_path / "results").record
    assert record.status == "done"
    assert record.metrics is not None
    assert (record.metrics.n, record.metrics.failed) == (12, 5)
    assert [f["id"] for f in record.provenance.failures] == [
        path.relative_to(data).as_posix() for path in bad
    ]
    assert all(f["message"] for f in record.provenance.failures)
    assert record.fired is not None
    assert record.fired.never + sum(record.fired.histogram.values()) == 7


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    data = picture_folder(tmp_path / "data", each=1)
    for path in data.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="None of the 3"):
        run(job_of(data), results=tmp_path / "results")
    ((_, record),) = read_records(tmp_path / "results")[0]
    assert record.status == "failed"
    assert record.metrics is None


def test_bad_options_leave_no_record(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(BadValueError, match="k=1"):
        run(job_of(pictures, method="asap", k=1.0), results=tmp_path / "results")
    averaged = {"class_token": False, "global_pool": "avg"}
    params = {"timm": "test_vit", "labels": "wnid", "kwargs": averaged}
    without = job_of(pictures, method="asap", k=4.0, model_params=params)
    with pytest.raises(UnsupportedModelError, match="class token"):
        run(without, results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_half_precision_that_overflows_is_an_error(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timm.models.vision_transformer import VisionTransformer

    head = VisionTransformer.forward_head

    def overflow(self: Any, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return head(self, x, pre_logits) * torch.inf

    monkeypatch.setattr(VisionTransformer, "forward_head", overflow)
    with pytest.raises(AsapEvalError, match="not finite"):
        run(job_of(pictures, limit=4), results=tmp_path)


# Reuse and resume


def test_a_finished_job_is_not_run_again(pictures: Path, tmp_path: Path) -> None:
    first = run(asap(pictures), results=tmp_path)
    before = first.path.read_bytes()
    again = run(asap(pictures), results=tmp_path)
    assert again.reused
    assert again.record == first.record
    assert first.path.read_bytes() == before
    forced = run(asap(pictures), results=tmp_path, force=True)
    assert not forced.reused
    assert timeless(forced.record) == timeless(first.record)
    assert len(rows_of(forced)) == 12


class Stopped(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int, error: BaseException) -> None:
    """Let the evaluation of a method fail after some batches."""
    evaluate = ImageNet.evaluate

    def stopping(self: ImageNet, loaded: Any, reducer: Any, images: Any, *, seed: int) -> Any:
        with closing(evaluate(self, loaded, reducer, images, seed=seed)) as rows:
            for number, batch in enumerate(rows):
                if number == batches and reducer.name != "none":
                    raise error
                yield batch

    monkeypatch.setattr(ImageNet, "evaluate", stopping)


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "interrupted"),
        (Stopped("a surprise"), Stopped, "Stopped: a surprise"),
        (OSError(errno.ENOSPC, "No space left on device"), AsapEvalError, "disk is full"),
        (torch.OutOfMemoryError("CUDA out of memory"), AsapEvalError, "Out of memory"),
    ],
    ids=["interrupt", "surprise", "disk", "memory"],
)
def test_a_stopped_run_fails_and_resumes_to_the_same_record(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    error: BaseException, raised: type[BaseException], says: str,
) -> None:  # fmt: skip
    whole = run(asap(pictures), results=tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(patched, 2, error)
        with pytest.raises(raised):
            run(asap(pictures), results=tmp_path / "cut")
    path = tmp_path / "cut" / whole.path.name
    failed = read_record(path)
    assert failed.status == "failed"
    assert says in str(failed.error)
    assert (failed.metrics, failed.macs, failed.tokens) == (None, None, None)

    counted: list[str] = []
    evaluate = ImageNet.evaluate

    def watching(self: ImageNet, *args: Any, **kwargs: Any) -> Iterator[list[Row]]:
        for batch in evaluate(self, *args, **kwargs):
            counted.extend(row["id"] for row in batch)
            yield batch

    monkeypatch.setattr(ImageNet, "evaluate", watching)
    resumed = run(asap(pictures), results=tmp_path / "cut")
    assert len(counted) == 4  # the third batch only
    assert timeless(resumed.record) == timeless(whole.record)
    assert rows_of(resumed) == rows_of(whole)


def test_a_resumed_budget_is_not_searched_again(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(pictures, method="random", budget=Budget("macs", -20, 4), limit=8)
    journal = Journal.append

    def stopping(self: Journal, rows: list[Row]) -> None:
        if "random" in self.path.name:
            raise Stopped
        journal(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", stopping)
        with pytest.raises(Stopped):
            run(job, results=tmp_path)
    again = "asap_eval.runner.measure.calibrate"
    monkeypatch.setattr(again, lambda *_: pytest.fail("searched again"))
    assert run(job, results=tmp_path).record.status == "done"


def test_a_broken_record_is_said_and_replaced(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(job_of(pictures), results=tmp_path)
    first.path.write_text(first.path.read_text()[:200])
    again = run(job_of(pictures), results=tmp_path)
    assert not again.reused
    assert timeless(read_record(first.path)) == timeless(first.record)
    assert "not a whole JSON file" in capsys.readouterr().err
    first.path.with_name(str(first.record.samples)).unlink()
    assert not run(job_of(pictures), results=tmp_path).reused


def test_memory_and_disk_are_explained(pictures: Path) -> None:
    job = job_of(pictures, batch_size=64)
    cpu = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you"
    for error in (MemoryError(), RuntimeError(cpu), torch.OutOfMemoryError("CUDA")):
        assert "batch_size=64" in str(explained(error, job))
    assert "disk is full" in str(explained(OSError(errno.ENOSPC, "x"), job))
    assert "denied (/x)" in str(explained(PermissionError(errno.EACCES, "denied", "/x"), job))
    assert explained(RuntimeError("shapes cannot be multiplied"), job) is None


def test_a_model_is_let_go_before_the_next_is_loaded(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models may not fit into memory at once, be the row before finished or failed."""
    held: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def loading(*args: Any, **kwargs: Any) -> Any:
        alive.append(sum(model() is not None for model in held))
        loaded = load_model(*args, **kwargs)
        held.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr("asap_eval.runner.latest_model.load_model", loading)
    given = [f"data={pictures}", "weights=random", "limit=2", f"results={tmp_path}", "batch_size=2"]
    models = "model.timm=test_vit,test_vit2,test_vit3,test_vit"
    assert main(["-m", *given, models, "method=random", "method.layer=2"]) == 0
    assert alive == [0] * 4
    assert main(["-m", *given, models, "method=random", "method.layer=99"]) != 0
    assert alive == [0] * 7  # the last one was still there


# Processes

RUN = """
import signal, sys
from asap_eval.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
"""Ctrl-C works: a shell starts background jobs, such as a test suite, with SIGINT ignored, and the
commands that they start inherit that."""

SLOW = """
import time
from asap_eval.record.journal import Journal

append = Journal.append

def slow(self, rows):
    append(self, rows)
    time.sleep(0.2 if "random" in self.path.name else 0)

Journal.append = slow
"""
"""Before `RUN`: 45 images take the method 9 s, so that a signal comes in time on a busy machine."""


def given(data: Path, *overrides: str) -> list[str]:
    return [*TINY, f"data={data}", "batch_size=1", *overrides]


def start(folder: Path, arguments: list[str], before: str = "") -> subprocess.Popen[str]:
    """The command in a process of its own, with the threads of this one."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen([sys.executable, "-c", before + RUN, *arguments], cwd=folder, env=env,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def here(folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The same command in this process: starting one takes seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with monkeypatch.context() as patched:
        patched.chdir(folder)
        return main(arguments)


def stop(process: subprocess.Popen[str], folder: Path, how: int) -> Path:
    """Signal a process as soon as some of its method's rows are written."""
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        for samples in (folder / "results").glob("*-random-*.samples.jsonl"):
            if samples.read_bytes().count(b"\n") >= 3:
                process.send_signal(how)
                process.communicate(timeout=100)
                return samples
        time.sleep(0.002)
    pytest.fail(f"the run ended before it could be stopped: {process.communicate()}")


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_killed_in_the_middle_a_run_resumes_to_the_same_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = given(picture_folder(tmp_path / "data", each=15), "method=random", "k=0.5")
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = start(cut, arguments, SLOW)
    samples = stop(process, cut, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 3 <= samples.read_bytes().count(b"\n") < 45
    path = samples.with_name(samples.name.replace(".samples.jsonl", ".json"))
    assert json.loads(path.read_text())["status"] == "running"

    assert here(cut, arguments, monkeypatch) == here(whole, arguments, monkeypatch) == 0
    for mine in (cut / "results").glob("*.json"):
        theirs = whole / "results" / mine.name
        assert timeless(read_record(mine)) == timeless(read_record(theirs))
    for mine in (cut / "results").glob("*.samples.jsonl"):
        assert mine.read_bytes() == (whole / "results" / mine.name).read_bytes()
    assert not list((cut / "results").glob(".*.part"))


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_ctrl_c_leaves_a_failed_record_and_a_message(tmp_path: Path) -> None:
    data = picture_folder(tmp_path / "data", each=15)
    process = start(tmp_path, given(data, "method=random"), SLOW)
    samples = stop(process, tmp_path, signal.SIGINT)
    assert process.returncode == 130
    record = read_record(samples.with_name(samples.name.replace(".samples.jsonl", ".json")))
    assert (record.status, record.error) == ("failed", "interrupted")


def test_two_processes_on_one_folder_share_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture_folder(tmp_path / "data", each=6)
    same = [start(tmp_path, given(data, "method=random")) for _ in range(2)]
    assert here(tmp_path, given(data, "method=stride"), monkeypatch) == 0
    ends = [process.communicate(timeout=200) for process in same]
    assert [process.returncode for process in same] == [0, 0], ends
    assert len({out.splitlines()[-1] for out, _ in ends}) == 1
    records, problems = read_records(tmp_path / "results")
    assert not problems
    assert sorted(record.job.method for _, record in records) == ["none", "random", "stride"]
    for path, record in records:
        assert record.status == "done"
        rows = Journal(path.with_name(str(record.samples))).read()
        assert len({row["id"] for row in rows}) == len(rows) == 18


def test_a_locked_job_is_waited_for_and_reused(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process holds the lock this one says so and waits; then it finds the record."""
    first = run(job_of(pictures), results=tmp_path / "elsewhere")
    path = tmp_path / "results" / first.path.name
    (path.parent / ".locks").mkdir(parents=True)
    held, waited = threading.Event(), threading.Event()
    said: list[str] = []

    def heard(message: str) -> None:
        said.append(message)
        waited.set()

    def other() -> None:
        with FileLock(path.parent / ".locks" / f"{path.stem}.lock"):
            held.set()
            waited.wait(60)
            for file in first.path.parent.glob("test_vit-none-*"):
                shutil.copy(file, path.parent)

    monkeypatch.setattr("asap_eval.runner.lock.say", heard)
    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    outcome = run(job_of(pictures), results=tmp_path / "results")
    thread.join()
    assert outcome.reused
    assert any("waiting" in message for message in said)


# Real weights and images


@pytest.mark.golden("data/weights/deit_tiny_patch16_224.safetensors", "data/imagenet/*/*")
def test_deit_tiny_has_the_known_numbers(shared: Path, tmp_path: Path) -> None:
    """Unpruned 396 of 500; two independent prototypes agree on ASAP at K = 2, tau = 1.7."""
    weights = str(shared / "data/weights/deit_tiny_patch16_224.safetensors")
    real = Job(model="deit_tiny", weights=weights, data=str(shared / "data/imagenet"))
    whole = run(real, results=tmp_path).record
    assert whole.metrics is not None
    assert whole.macs is not None
    assert (whole.metrics.n, round(whole.metrics.top1 * 5)) == (500, 396)
    assert whole.macs.mean_g == pytest.approx(1.254, abs=5e-4)

    job = dataclasses.replace(real, method="asap", k=2.0, params={"tau": 1.7}, limit=250)
    record = run(job, results=tmp_path).record
    assert record.metrics is not None
    assert record.macs is not None
    assert record.tokens is not None
    assert record.fired is not None
    assert record.baseline is not None
    assert record.baseline.top1 == pytest.approx(80.4)
    assert record.metrics.top1 == pytest.approx(70.0, abs=0.81)  # two images
    assert record.fired.mean == pytest.approx(5.52, abs=0.02)
    assert record.fired.never == 0
    # The prototypes counted the class token.
    kept = (record.tokens.kept_min, record.tokens.kept_mean, record.tokens.kept_max)
    assert [value + 1 for value in kept] == pytest.approx([7, 141, 192], abs=1)
    assert record.macs.reduction_pct == pytest.approx(-12.6, abs=0.2)
    assert record.macs.reduction_model_pct == pytest.approx(-16.0, abs=0.2)
