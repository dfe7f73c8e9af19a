"""Records that are reused, and those that must not be: what changes numbers changes the key."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clips
import pytest
from pictures import CLASSES, TINY, picture_folder
from PIL import Image
from project import ROOT
from test_saliency import photographs

from asap_eval.bench.imagenet import ImageNet
from asap_eval.cli import main
from asap_eval.errors import DataError, RecordError
from asap_eval.record import Budget, Job, RunRecord, read_record, read_records
from asap_eval.record.journal import Journal
from asap_eval.runner import finished, run, sources
from asap_eval.runner.prepare import prepare
from asap_eval.runner.sources import sources_digest

OLD = 10**18
"""A time long ago, in nanoseconds: every file here has it, whatever is written into it."""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return picture_folder(tmp_path / "pictures", each=2)


def job_of(data: Path, **changes: Any) -> Job:
    return dataclasses.replace(
        Job(model="test_vit", weights="random", data=str(data), batch_size=4), **changes
    )


def records_of(folder: Path, method: str) -> list[RunRecord]:
    return [record for _, record in read_records(folder)[0] if record.job.method == method]


def black(path: Path) -> None:
    """The picture in black; in its file's old size and with its old time where that can be."""
    size = path.stat().st_size
    with Image.open(path) as picture:
        Image.new(picture.mode, picture.size).save(path)
    with path.open("ab") as file:
        file.write(b"\0" * max(0, size - path.stat().st_size))


# Data that changed


def test_a_repaired_folder_is_not_compared_with_the_broken_one(
    pictures: Path, tmp_path: Path
) -> None:
    """A baseline over three empty images of four must not serve the repaired ones."""
    given = [*TINY, f"data={pictures}", "limit=4", f"results={tmp_path / 'out'}", "batch_size=1"]
    whole = {path: path.read_bytes() for path in sorted(pictures.rglob("*.png"))[:3]}
    for path in whole:
        path.write_bytes(b"")
        os.utime(path, ns=(OLD, OLD))
    assert main([*given, "method=random"]) == 0
    for path, content in whole.items():
        path.write_bytes(content)
        os.utime(path, ns=(OLD, OLD))
    assert main([*given, "method=random", "force=true"]) == 0
    by_failures = {record.metrics.failed: record for record in records_of(tmp_path / "out", "none")}  # type: ignore[union-attr]
    assert sorted(by_failures) == [0, 3]
    repaired = [r for r in records_of(tmp_path / "out", "random") if r.metrics.failed == 0]  # type: ignore[union-attr]
    assert [r.baseline.key for r in repaired] == [by_failures[0].key]  # type: ignore[union-attr]


def questions_of(root: Path, change: bool) -> None:
    """POPE's questions in one file; with ``change`` the first picture is another one."""
    import vlm_questions  # on the path once the fixture has run
    from datasets import Dataset

    from asap_eval.data.questions.documents import open_documents
    from asap_eval.data.questions.tasks import TASKS

    if not change:
        vlm_questions.write(root, pictures=2)
        return
    rows = [dict(row) for row in open_documents(TASKS["pope"], str(root)).rows]
    rows[0]["image"], rows[-1]["image"] = rows[-1]["image"], rows[0]["image"]
    Dataset.from_list(rows).to_parquet(root / "pope.parquet")


def _questions(root: Path) -> tuple[Job, Callable[[], None]]:
    params = {"tasks": ["pope"], "new_tokens": 2}
    questions_of(root, change=False)
    job = Job("llava_tiny", data=str(root), bench="vlm", bench_params=params, limit=2)
    return job, lambda: questions_of(root, change=True)


def _folder(root: Path) -> tuple[Job, Callable[[], None]]:
    picture_folder(root, each=1)
    return job_of(root, limit=2), lambda: black(root / CLASSES[0] / "000.png")


def _any_pictures(root: Path) -> tuple[Job, Callable[[], None]]:
    picture_folder(root, each=1)
    return job_of(root, bench="keepmaps"), lambda: black(root / CLASSES[0] / "000.png")


def _asked_pictures(root: Path) -> tuple[Job, Callable[[], None]]:
    picture_folder(root, each=1)
    params = {"question": "What is it?", "warmup": 0}
    job = Job("llava_tiny", data=str(root), bench="latency", bench_params=params)
    return job, lambda: black(root / CLASSES[0] / "000.png")


def _photographs(root: Path) -> tuple[Job, Callable[[], None]]:
    photographs(root, [(60, 50)] * 2)
    return job_of(root, bench="saliency"), lambda: black(root / "images" / "0000.png")


def _masks(root: Path) -> tuple[Job, Callable[[], None]]:
    photographs(root, [(60, 50)] * 2)
    return job_of(root, bench="saliency"), lambda: black(root / "masks" / "0000.png")


def _calibration(root: Path) -> tuple[Job, Callable[[], None]]:
    """The evaluated pictures stay; one that the knob is searched on does not."""
    picture_folder(root, each=1)
    job = job_of(root, method="random", budget=Budget("macs", -20, 2), limit=1)
    return job, lambda: black(root / CLASSES[2] / "000.png")


KINDS = [_folder, _any_pictures, _photographs, _masks, _calibration, _questions, _asked_pictures]


def settled(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, ns=(OLD, OLD))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.strip("_"))
@pytest.mark.usefixtures("questions")
def test_what_data_holds_is_in_the_key(
    kind: Callable[[Path], tuple[Job, Callable[[], None]]], tmp_path: Path
) -> None:
    job, change = kind(tmp_path / "data")
    settled(tmp_path / "data")
    before = prepare(job)
    shutil.copytree(tmp_path / "data", tmp_path / "copy", copy_function=shutil.copyfile)
    assert prepare(dataclasses.replace(job, data=str(tmp_path / "copy"))).key == before.key
    change()
    settled(tmp_path / "data")
    after = prepare(job)
    assert after.samples.digest == before.samples.digest
    assert after.key != before.key


@pytest.mark.usefixtures("questions")
def test_questions_written_again_are_read_again(tmp_path: Path) -> None:
    """The library that reads parquet keeps what it read by path and time."""
    from asap_eval.data.questions.documents import open_documents
    from asap_eval.data.questions.tasks import TASKS

    def first() -> bytes:
        settled(tmp_path)
        return open_documents(TASKS["pope"], str(tmp_path)).picture(0).tobytes()

    questions_of(tmp_path, change=False)
    before = first()
    questions_of(tmp_path, change=True)
    assert first() != before


def test_videos_count_by_their_bytes(tmp_path: Path) -> None:
    from asap_eval.data.images import ImageSet
    from asap_eval.data.videos.listing import list_videos
    from asap_eval.data.videos.store import VideoStore

    clips.folder(tmp_path / "val", 1)
    listing = list_videos(str(tmp_path), "val", whole=True)
    store = VideoStore(listing, listing.classes, str(tmp_path))
    before = ImageSet(store, [0, 1]).content()
    listing.paths[2].write_bytes(b"of no sample")
    assert ImageSet(store, [0, 1]).content() == before
    content = bytearray(listing.paths[1].read_bytes())
    content[len(content) // 2] ^= 1
    listing.paths[1].write_bytes(content)
    assert ImageSet(store, [0, 1]).content() != before


def test_data_that_changes_on_the_way_leaves_no_record(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append
    first = sorted(pictures.rglob("*.png"))[0]

    def writing(self: Journal, rows: Any) -> None:
        append(self, rows)
        black(first)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", writing)
        with pytest.raises(DataError, match="changed while the job ran"):
            run(job_of(pictures), results=tmp_path / "out")
    ((_, record),) = read_records(tmp_path / "out")[0]
    assert (record.status, record.metrics) == ("failed", None)
    assert not list((tmp_path / "out").glob("*.jsonl"))
    assert run(job_of(pictures), results=tmp_path / "out").record.status == "done"


# force=true


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Methods in the order in which they were run."""
    found: list[str] = []
    evaluate = ImageNet.evaluate

    def watched(self: ImageNet, loaded: Any, reducer: Any, batches: Any, *, seed: int) -> Any:
        found.append(reducer.name)
        return evaluate(self, loaded, reducer, batches, seed=seed)

    monkeypatch.setattr(ImageNet, "evaluate", watched)
    return found


def test_force_reaches_the_baseline_once_a_command(
    pictures: Path, tmp_path: Path, evaluated: list[str]
) -> None:
    given = [*TINY, f"data={pictures}", f"results={tmp_path / 'out'}", "limit=2"]
    ways = (["methods=[random,stride]"], ["-m", "method=random,stride"])
    assert main([*given, *ways[0]]) == 0
    for way in ways:
        evaluated.clear()
        assert main([*way, *given]) == 0
        assert evaluated == []
        assert main([*way, *given, "force=true"]) == 0
        assert evaluated == ["none", "random", "stride"]


# Damage


def damaged(content: bytes, how: str) -> bytes:
    lines = content.splitlines(keepends=True)
    row = json.loads(lines[0])
    other = json.dumps({**row, "correct": not row["correct"]}, separators=(",", ":"))
    return {
        "torn": content[:-20],
        "one line less": b"".join(lines[:-1]),
        "empty": b"",
        "another answer": other.encode() + b"\n" + b"".join(lines[1:]),
        "no text": b"\xff\xfe" + content[2:],
    }[how]


@pytest.mark.parametrize("how", ["torn", "one line less", "empty", "another answer", "no text"])
def test_a_damaged_baseline_is_said_and_made_again(
    how: str, pictures: Path, tmp_path: Path, evaluated: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    first = run(job_of(pictures, method="random"), results=tmp_path)
    samples = next(tmp_path.glob("*-none-*.jsonl"))
    whole = samples.read_bytes()
    samples.write_bytes(damaged(whole, how))
    evaluated.clear()
    second = run(job_of(pictures, method="stride"), results=tmp_path)
    assert evaluated == ["none", "stride"]
    assert f"{samples.name} is damaged" in capsys.readouterr().err
    assert samples.read_bytes() == whole
    assert second.record.baseline == first.record.baseline


def test_every_file_beside_a_record_is_watched(pictures: Path, tmp_path: Path) -> None:
    job = job_of(pictures, bench="walk", limit=2)
    outcome = run(job, results=tmp_path)
    assert set(outcome.record.files or {}) == {outcome.record.samples, outcome.record.arrays}
    for name in outcome.record.files or {}:
        file = outcome.path.with_name(name)
        for change in (lambda f: f.write_bytes(f.read_bytes()[:-1]), Path.unlink):
            change(file)  # type: ignore[operator]
            assert not run(job, results=tmp_path).reused
            assert file.exists()
    assert run(job, results=tmp_path).reused


def test_a_baseline_that_changes_on_the_way_is_not_compared_with(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append
    damage: list[Path] = []

    def appending(self: Journal, rows: Any) -> None:
        append(self, rows)
        if "random" in self.path.name:
            damage.extend(tmp_path.glob("*-none-*.jsonl"))
            damage[0].write_bytes(damage[0].read_bytes()[:-20])

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", appending)
        with pytest.raises(RecordError, match="changed while this job ran"):
            run(job_of(pictures, method="random"), results=tmp_path)
    assert run(job_of(pictures, method="random"), results=tmp_path).record.status == "done"


def test_committed_records_without_hashes_stay_readable() -> None:
    path = next((ROOT / "results" / "deit_tiny_training").glob("*-none-*.json"))
    assert read_record(path).files is None
    assert finished(path) is not None


# What changes numbers


@pytest.mark.parametrize(
    "file",
    [f.name for f in (ROOT / "asap_eval" / "kernels").iterdir() if f.is_file()],
)
def test_every_file_of_the_kernels_is_a_source(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every host uses all of them but the search for partners, which methods ask for.
    searching = ["asap_eval.methods.tome"] if file == "nearest.py" else []
    using = ["asap_eval.hosts", *searching]
    before = sources_digest(using)
    content = sources._content

    def edited(path: Path) -> bytes:
        return content(path) + (b"\n" if path.name == file else b"")

    monkeypatch.setattr(sources, "_content", edited)
    assert sources_digest(using) != before


def keys_by_package(job: Job, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether the key changes with the version of each package."""
    names = ("torch", "torchvision", "timm", "pillow", "transformers", "tokenizers", "lmms-eval")
    version, before = importlib.metadata.version, prepare(job).key
    found = {}
    for name in (*names, "matplotlib"):
        with monkeypatch.context() as patched:
            patched.setattr(
                importlib.metadata,
                "version",
                lambda one, name=name: version(one) + (".post1" if one == name else ""),
            )
            found[name] = prepare(job).key != before
    return found


def test_versions_of_what_an_image_job_computes_with_are_in_its_key(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = keys_by_package(job_of(pictures, method="random"), monkeypatch)
    used = {"torch", "torchvision", "timm", "pillow"}
    assert {name for name, changes in found.items() if changes} == used


@pytest.mark.usefixtures("questions")
def test_versions_of_what_questions_compute_with_are_in_their_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = _questions(tmp_path)
    # lmms-eval's own check of its version is elsewhere.
    monkeypatch.setattr("asap_eval.data.questions.question_set.check_lmms_eval", lambda: None)
    monkeypatch.setattr("asap_eval.data.questions.lmms.check_lmms_eval", lambda: None)
    found = keys_by_package(job, monkeypatch)
    used = {"torch", "torchvision", "pillow", "transformers", "tokenizers", "lmms-eval"}
    assert {name for name, changes in found.items() if changes} == used


def test_one_device_by_two_names_is_one_job(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for reader in ("zoo", "look"):
        monkeypatch.setattr(
            f"asap_eval.models.{reader}.check_device", lambda _: torch.device("cpu")
        )
    devices = ("cuda", "cuda:0", "cuda:1", "cuda:10", "cpu")
    keys = [prepare(job_of(pictures, device=device)).key for device in devices]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_the_kernel_that_runs_is_in_the_key(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepare(job_of(pictures)).key
    monkeypatch.setenv("ASAP_EVAL_KERNELS", "torch")
    assert prepare(job_of(pictures)).key != before


def timeless(record: RunRecord) -> dict[str, Any]:
    body = dataclasses.asdict(record)
    for name in ("started", "duration_s", "command"):
        body["provenance"].pop(name)
    return body


def test_a_baseline_says_nothing_of_the_method_it_was_made_for(
    pictures: Path, tmp_path: Path
) -> None:
    given = [*TINY, f"data={pictures}", "limit=2", f"results={tmp_path / 'out'}"]
    assert main(given) == 0
    (alone,) = records_of(tmp_path / "out", "none")
    shutil.rmtree(tmp_path / "out")
    ways = (
        ["method=random", "++method.layer=2", "k=0.6", "seed=3", "speed=false", "force=true"],
        ["method=random", "budget=macs", "target=-20", "++budget.samples=2", "settings=none"],
        ["methods=[random]", "++method.layer=2"],
    )
    for way in ways:
        assert main([*given, *way]) == 0
        (made,) = records_of(tmp_path / "out", "none")
        assert timeless(made) == timeless(alone)
        assert sorted(made.provenance.command.split()) == sorted(alone.provenance.command.split())
        shutil.rmtree(tmp_path / "out")
