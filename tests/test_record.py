"""Records and their per-sample files: keys, writing, reading, resuming."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from asap_eval.errors import BadValueError, RecordError
from asap_eval.record import (
    Budget,
    Calibration,
    Fired,
    Job,
    Macs,
    Metrics,
    Paired,
    Provenance,
    RunRecord,
    Tokens,
    job_key,
    read_record,
    read_records,
    write_record,
)
from asap_eval.record.journal import Journal
from asap_eval.runner.sources import sources_digest

JOB = Job(model="deit_tiny", method="asap", data="x", k=2.0, params={"tau": 1.7})


def key_of(job: Job, **changes: Any) -> str:
    given: dict[str, Any] = {
        "weights_sha256": "w",
        "data_digest": "d",
        "content": "c",
        "searched": None,
        "sources": "s",
        "versions": {"torch": "2"},
    }
    return job_key(job, **{**given, **changes})


def record_of(job: Job = JOB, **changes: Any) -> RunRecord:
    provenance = Provenance(
        command="asap-eval model=deit_tiny",
        config={"k": 2},
        commit="c0ffee",
        dirty=False,
        sources="s",
        packages={"torch": "2"},
        machine={"cores": 2},
        dtype="float32",
        kernels={},
        seeds={"run": 0},
        weights={"name": "w", "sha256": "0", "trained": True},
        data={"source": "x", "ids_digest": "d", "n": 4},
        started="2026-01-01T00:00:00+00:00",
    )
    return RunRecord(key=key_of(job), status="running", job=job, provenance=provenance, **changes)


def full_record() -> RunRecord:
    record = record_of(
        dataclasses.replace(JOB, k=None, budget=Budget("macs", -35)),
        metrics=Metrics(top1=75.0, n=4, failed=1, top5=100.0),
        paired=Paired(-25.0, [-75.0, 0.0], 1.0),
        macs=Macs(1.25, 0.8, 0.04, -33.0, -36.0, "full"),
        tokens=Tokens(7, 20.5, 21.25, 196, 100.0),
        fired=Fired(5.5, 2, 7, 0, {"1": 0, "2": 3}),
        speed={"speedup": {"median": 1.2}, "rounds": 30},
        samples="x.samples.jsonl",
    )
    record.status = "done"
    record.provenance.failures = [{"id": "a.png", "message": "truncated"}]
    record.provenance.calibration = Calibration(
        2.5, -35.01, [-70.0, 0.0], 64, "digest", True, 9, -34.9, [-36.0, -33.0], "coarse"
    )
    return record


# Keys


@pytest.mark.parametrize(
    "change",
    [
        {"model": "deit_small"},
        {"method": "mass"},
        {"k": 3.0},
        {"params": {"tau": 1.8}},
        {"limit": 5},
        {"sample": "spread"},
        {"k": None, "budget": Budget("macs", -35)},
        {"batch_size": 7},
        {"device": "cuda"},
        {"dtype": "bfloat16"},
        {"seed": 1},
        {"speed": True},
        {"model_params": {"labels": "none"}},
    ],
    ids=str,
)
def test_the_key_follows_every_field_of_the_job(change: dict[str, Any]) -> None:
    assert key_of(dataclasses.replace(JOB, **change)) != key_of(JOB)


def test_the_key_follows_content_not_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = dataclasses.replace(JOB, weights="/another/place.safetensors", data="y")
    assert key_of(elsewhere) == key_of(JOB)
    changes: list[dict[str, Any]] = [
        {"weights_sha256": "v"},
        {"data_digest": "e"},
        {"content": "b"},
        {"searched": "b"},
        {"sources": "t"},
        {"versions": {"torch": "3"}},
    ]
    assert len({key_of(JOB), *(key_of(JOB, **change) for change in changes)}) == 7
    monkeypatch.setenv("HOME", str(tmp_path))
    file = dataclasses.replace(JOB, params={"checkpoint": "~/predictors"})
    (tmp_path / "predictors").write_text("one")
    before = key_of(file)
    (tmp_path / "predictors").write_text("two")
    assert key_of(file) != before


def test_a_matched_record_counts_by_its_samples(tmp_path: Path) -> None:
    other, samples = tmp_path / "other.json", tmp_path / "other.samples.jsonl"
    job = dataclasses.replace(JOB, method="random", params={"match": str(other)})
    other.write_text("times: 1")
    samples.write_text("rows")
    before = key_of(job)
    other.write_text("times: 2")
    assert key_of(job) == before
    samples.write_text("other rows")
    assert key_of(job) != before


def test_sources_are_what_the_code_imports() -> None:
    def digest(*names: str) -> str:
        return sources_digest([f"asap_eval.{name}" for name in names])

    assert digest("methods.random") == digest("methods.random", "scorer", "tokens", "method")
    assert digest("methods.random") != digest("methods.random", "methods.mass")
    # What stores numbers does not change them.
    assert digest("methods.random") == digest(
        "methods.random", "record", "record.journal", "files.placed", "hub.files", "errors"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"limit": 0}, "limit=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"budget": Budget("macs", -35)}, "both set the knob"),
    ],
)
def test_impossible_jobs_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BadValueError, match=says):
        dataclasses.replace(JOB, **change)


@pytest.mark.parametrize(("target", "samples"), [(35, 64), (-100, 64), (0, 64), (-35, 0)])
def test_impossible_budgets_are_refused(target: float, samples: int) -> None:
    with pytest.raises(BadValueError):
        Budget("macs", target, samples)


def test_the_baseline_is_the_same_job_without_a_method() -> None:
    job = dataclasses.replace(JOB, k=None, budget=Budget("macs", -35), seed=3, speed=True, limit=9)
    assert job.baseline() == Job(model="deit_tiny", data="x", limit=9)


# Records on disk


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    for record in (record_of(), full_record()):
        path = write_record(record, tmp_path / "new")
        assert read_record(path) == record
        assert list(json.loads(path.read_text()))[:4] == ["schema", "key", "status", "job"]
    assert sorted(p.suffix for p in (tmp_path / "new").iterdir()) == [".json", ".json"]


def test_a_failed_write_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_record(record_of(), tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    later = record_of()
    later.status = "done"
    with pytest.raises(OSError, match="No space"):
        write_record(later, tmp_path)
    assert read_record(path).status == "running"
    assert list(tmp_path.iterdir()) == [path]


def broken(**changes: Any) -> str:
    body = {"schema": 1, **dataclasses.asdict(full_record())}
    return json.dumps({k: v for k, v in {**body, **changes}.items() if v != "absent"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (broken()[:300], "not a whole JSON file"),
        ("[1, 2]", "not a record"),
        ('{"name": "some other tool"}', "not a record"),
        (broken(schema=2), "schema 2"),
        (broken(status="almost"), "status"),
        (broken(extra=1), "unknown extra"),
        (broken(provenance="absent"), "provenance is missing"),
        (broken(metrics={"top1": "high", "n": 1, "failed": 0}), "top1"),
        (broken(metrics={"top1": 1.0, "n": 1}), "failed is missing"),
        (broken(job={"model": "x", "limit": -1}), "limit=-1"),
        (broken(error="\ud800"), "surrogates"),
        (broken(metrics={"top1": float("nan"), "n": 1, "failed": 0}), "NaN is no number"),
        (broken(paired={"delta_top1": 1.0, "ci95": [1.0], "mcnemar_p": 0.1}), "two bounds"),
    ],
)
def test_files_that_are_no_record_are_said_to_be_so(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(RecordError, match=says):
        read_record(tmp_path / "bad.json")
    write_record(record_of(), tmp_path / "below")
    good, problems = read_records(tmp_path)
    assert [record.key for _, record in good] == [record_of().key]
    assert len(problems) == 1
    assert "bad.json" in str(problems[0])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    good, problems = read_records(tmp_path)
    assert not good
    assert len(problems) == 3


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.json"):
        read_record(tmp_path / "none.json")


# The per-sample file

IDS = [f"{place}.png" for place in range(7)]
BY_THREE = range(3, 8, 3)


def rows_of(*places: int) -> list[dict[str, Any]]:
    return [{"id": IDS[place], "share": 1 / (place + 3)} for place in places]


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "x.samples.jsonl")
    assert journal.resume(IDS, BY_THREE) == []
    journal.append(rows_of(0, 1, 2))
    journal.append(rows_of(3, 4, 5))
    journal.append(rows_of(6))
    assert journal.read() == journal.resume(IDS, BY_THREE) == rows_of(*range(7))


@pytest.mark.parametrize(
    ("tail", "whole"),
    [
        (b"", 3),
        (b'{"id":"3.png","share"', 3),  # torn in the middle of a line
        (b'{"id":"3.png","share":1}', 3),  # torn before the end of the line
        (b'{"id":"3.png"}\n{"id":"4.png"}\n', 3),  # two thirds of a batch
        (b'{"id":"3.png"}\n{"id":"4.png"}\n{"id":"5.png"}\n{"id":"6', 6),
        (b'{"id":"3.png"}\n{"id":"4.png"}\n{"id":"5.png"}\n{"id":"6.png"}\n', 7),  # all of them
        (b'{"id":"other.png"}\n{"id":"4.png"}\n{"id":"5.png"}\n', 3),
        (b"\xff\xfe\n\n\n", 3),
    ],
)
def test_only_whole_batches_count_after_a_stop(tmp_path: Path, tail: bytes, whole: int) -> None:
    journal = Journal(tmp_path / "x.samples.jsonl")
    journal.append(rows_of(0, 1, 2))
    with journal.path.open("ab") as file:
        file.write(tail)
    rows = journal.resume(IDS, BY_THREE)
    assert [row["id"] for row in rows] == IDS[:whole]
    assert journal.read() == rows  # what was cut off is gone from the file, too
    if whole < 7:
        journal.append(rows_of(*range(whole, 7)))
        assert [row["id"] for row in journal.read()] == IDS


def test_broken_or_missing_samples_are_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.samples.jsonl")
    with pytest.raises(RecordError, match=r"x\.samples"):
        journal.read()
    journal.append(rows_of(0))
    with journal.path.open("ab") as file:
        file.write(b"torn")
    with pytest.raises(RecordError, match="line 2"):
        journal.read()
