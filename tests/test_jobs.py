"""``asap-eval jobs``: what lies in a folder of results, as two tables."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest
from filelock import FileLock
from records import make, put

from asap_eval.cli import main
from asap_eval.launch.parts import Failure, Parts, Worker
from asap_eval.launch.standing import standings
from asap_eval.runner.pieces import Piece

CUT = [Piece(0, 200), Piece(200, 400), Piece(400, 500)]
"""Of a job of 500 samples."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two records: one is done, one runs: a whole piece, one begun, one untouched."""
    running = dataclasses.replace(make("mass", key="b" * 64), status="running")
    put(tmp_path, make("none", key="a" * 64), running)
    parts = Parts(tmp_path, running.stem)
    parts.write_cut(CUT, adopted=False)
    parts.whole(CUT[0]).write_text('{"id":"x"}\n' * 200)
    parts.part(CUT[1]).write_text('{"id":"x"}\n' * 50 + '{"id":')
    parts.write_worker(Worker("node1-7", "node1", 7, began=100.0, latest=200.0, samples=200))
    lost = Failure("OutOfMemoryError", "CUDA out of memory", "node2", "/logs/9.out")
    late = Worker("node2-9", "node2", 9, began=100.0, latest=150.0, samples=50, error=lost)
    parts.write_worker(late)
    return tmp_path


def test_what_runs(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = results / ".locks" / "workers" / "node1-7.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        (job,) = standings(results)
        assert main(["jobs", f"results={results}"]) == 0
    assert (job.state, job.done, job.total) == ("running", 250, 500)
    assert ([w.host for w in job.alive], [w.host for w in job.gone]) == (["node1"], ["node2"])
    assert (job.rate, job.left) == (2.0, 125.0)
    out = capsys.readouterr().out
    assert "250/500" in out
    assert "0:02:05" in out
    assert "CUDA out of memory" in out
    assert "/logs/9.out" in out
    (again,) = standings(results)
    assert (again.state, again.rate, again.left) == ("stopped", None, None)


def test_the_tables_fit_a_terminal(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    big = dataclasses.replace(make("zero_tprune", model="vit_so400m_patch14_siglip_384"))
    big.status, big.provenance.data["n"] = "running", 1_000_000
    put(results, big)
    assert main(["jobs", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("0/1000000" in line for line in lines) == 1


def test_a_run_of_one_process(tmp_path: Path) -> None:
    """It has no parts: its rows stand in the per-sample file, its life in the job's lock."""
    record = dataclasses.replace(make("mass"), status="running")
    put(tmp_path, record)
    (tmp_path / f"{record.stem}.samples.jsonl").write_text('{"id":"x"}\n' * 3)
    (tmp_path / ".locks").mkdir()
    with FileLock(tmp_path / ".locks" / f"{record.stem}.lock"):
        (job,) = standings(tmp_path)
    assert (job.state, job.done, job.total) == ("running", 3, 500)
    (job,) = standings(tmp_path)
    assert job.state == "stopped"


def test_what_ended_a_job(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = results.glob("*mass*.json")
    record = dataclasses.replace(make("mass", key="b" * 64), status="failed", error="no such file")
    put(results, record)
    host = socket.gethostname()
    Parts(results, path.stem).write_failure(Failure("DataError", "no such file", host, "/l/1"))
    (job,) = standings(results)
    assert job.state == "failed"
    assert [failure.message for _, failure in job.failures()] == [
        "CUDA out of memory",
        "no such file",
    ]
    assert main(["jobs", str(results)]) == 0
    assert "/l/1" in capsys.readouterr().out


def test_where_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"Nothing runs in {tmp_path}.\n"
    assert main(["jobs", str(tmp_path / "absent")]) == 2
    assert "No folder" in capsys.readouterr().err
