"""``launch=slurm`` and ``launch=ray``: the bytes of one process, also where a worker is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import one_node_slurm
import pytest
import yaml
from project import ROOT
from test_plugins import forget

from asap_eval.cli import main
from asap_eval.cli.overrides import check, parsed
from asap_eval.launch.launch import Launch
from asap_eval.launch.queue import Queue, Queued
from asap_eval.launch.slurm import Slurm, Task
from asap_eval.record import Job
from asap_eval.runner.latest_model import load, spec_of
from asap_eval.runner.piece import Opening

SLURM = pytest.mark.skipif(bool(one_node_slurm.absent()), reason=one_node_slurm.absent())
RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no package ray here")

SLOW = '''
import os, pathlib, time
from dataclasses import dataclass
from asap_eval.method import Card, Need, register
from asap_eval.scorer import Scorer

@register("slow", Card(paper="none", licence="Apache-2.0", training="training-free", knob="k",
                       knob_meaning="share of patches kept", fixed_count=True))
@dataclass
class Slow(Scorer):
    """Keeps the patches with the longest keys; at one batch it waits as long as it is told to."""

    needs = frozenset({Need.KEYS})

    def score(self, view, state):
        hold = pathlib.Path(os.environ["HOLD"])
        if hold.exists() and hold.read_text() == state.batch.id_of(0):
            hold.with_suffix(f".{os.getpid()}").touch()
            while hold.exists():
                time.sleep(0.02)
        return view.keys.norm(dim=-1).mean(1)[:, view.prefix :]
'''
"""A method that waits at a batch to be killed there, and says which process it is."""

JOB = [
    *("model=digits_vit", "data=example", "method=slow", "budget=macs", "target=-35"),
    *("budget.samples=16", "limit=96", "batch_size=16", "device=cpu"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The method, and what one process makes of the job in ``alone/``; here it is unknown again."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "slow.py").write_text(SLOW)
    modules = {*sys.modules}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLD", str(folder / "none"))
        patch.setattr(sys, "path", [*sys.path])
        try:
            assert main([*JOB, f"plugins={folder}/slow.py", f"results={folder}/alone"]) == 0
        finally:
            forget(modules)
    return folder


@contextlib.contextmanager
def started(place: Path, name: str, *words: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """The same job by workers, as a command; the first piece waits at its second batch."""
    (rows,) = (place / "alone").glob("*-slow-*.samples.jsonl")
    (place / f"{name}.hold").write_text(json.loads(rows.read_text().splitlines()[16])["id"])
    given = [*JOB, f"plugins={place}/slow.py", f"results={place}/{name}", f"launch={name}", *words]
    line = [sys.executable, "-m", "asap_eval", *given, "launch.workers=2", "launch.piece=32"]
    own = {"HOLD": str(place / f"{name}.hold"), "PYTHONPATH": str(ROOT), **more}
    with subprocess.Popen(
        line, env={**os.environ, **own}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def kill_one(place: Path, process: subprocess.Popen[str], name: str) -> tuple[int, int]:
    """Kill the process that waits at the second batch of a piece, once the first is written; its
    number and how nice it was."""
    hold = place / f"{name}.hold"
    while process.poll() is None:
        written = (place / name).glob(".*slow*.parts/000000000.part")
        waiting = list(place.glob(f"{name}.[0-9]*"))
        if waiting and any(path.stat().st_size for path in written):
            number = int(waiting[0].suffix[1:])
            nice = os.getpriority(os.PRIO_PROCESS, number)
            os.kill(number, signal.SIGKILL)
            hold.unlink()
            return number, nice
        time.sleep(0.02)
    raise AssertionError(process.stderr and process.stderr.read())


def compare(place: Path, name: str) -> dict[str, Any]:
    """Hold the files of the job against those of one process; hands back its record."""
    for one in ("none", "slow"):
        for ours, theirs in zip(
            sorted((place / "alone").glob(f"*-{one}-*")),
            sorted((place / name).glob(f"*-{one}-*")),
            strict=True,
        ):
            assert ours.name == theirs.name
            if ours.suffix == ".jsonl":
                assert ours.read_bytes() == theirs.read_bytes()
            else:
                assert plain(json.loads(ours.read_text())) == plain(json.loads(theirs.read_text()))
    assert not list((place / name).glob(".*.parts"))
    return dict(json.loads(theirs.with_name(f"{theirs.name.split('.')[0]}.json").read_text()))


def counted(record: dict[str, Any]) -> None:
    """No batch was written twice; of the worker that was killed the last second may be untold."""
    assert 64 <= sum(worker["samples"] for worker in record["provenance"]["workers"]) <= 96


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """A record less what may differ: who computed it, when, and into which folder."""
    said = record["provenance"]
    for name in ("command", "started", "duration_s", "machine", "workers"):
        said.pop(name, None)
    said["config"].pop("results")
    said["config"]["paths"].pop("results")
    return record


@SLURM
def test_a_slurm_task_is_killed(place: Path) -> None:
    with one_node_slurm.one_node() as variables, started(place, "slurm", **variables) as process:
        kill_one(place, process, "slurm")
        out, err = process.communicate()
    assert process.returncode == 0, err
    counted(compare(place, "slurm"))
    logs = [path.read_text() for path in (place / "slurm" / ".launch").rglob("*.out")]
    assert sum("goes on after 16 of 32" in log for log in logs) == 1
    assert len(out.splitlines()) > 5


@RAY
def test_an_actor_is_killed(place: Path, tmp_path: Path) -> None:
    with started(place, "ray", HOME=str(tmp_path)) as process:
        killed, nice = kill_one(place, process, "ray")
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert "It is started again" in err
    assert "goes on after 16 of 32" in err
    counted(compare(place, "ray"))
    assert killed != process.pid
    assert nice == os.getpriority(os.PRIO_PROCESS, 0)  # Ray's own 15 would starve
    assert not (tmp_path / ".ray").exists()  # its token goes no further than its processes


def queue_of(folder: Path, **engine: Any) -> Queue:
    launch = Launch(kind="slurm", workers=3, engine=engine)
    jobs = (Queued("a"), Queued("b", "a", times=True))
    return Queue(folder, jobs, Opening(loaders=7), launch, folder)


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands: an ``sbatch`` that keeps its script and its number, and the others."""
    commands = {
        "sbatch": 'n=$(ls {0}/*.sh 2>/dev/null | wc -l); cp "$1" {0}/$((n + 1)).sh\n'
        "echo Submitted batch job $((n + 1))",
        **dict.fromkeys(("srun", "squeue", "scancel"), "exit 0"),
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body.format(tmp_path)}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


WANTED: Mapping[str, Any] = {
    **{"partition": "gpu", "account": "abc", "qos": "long", "constraint": "a100", "gpus": 2},
    **{"cpus": 4, "memory_gb": 32, "hours": 2.5, "exclusive": True},
    **{"setup": ["module load cuda"], "extra": {"nice": 100, "wckey": "ours"}},
}


def test_the_script_that_slurm_gets(no_slurm: Path) -> None:
    """The array, and after it the job that measures speed on a node of its own."""
    queue = queue_of(no_slurm, **WANTED)
    slurm = Slurm(queue.launch)
    slurm.check("cuda")
    assert slurm.start(queue, slurm.count("cuda")) == ["1_0", "1_1", "1_2", "2"]
    golden = Path(__file__).parent / "golden_launch"
    for script in ("1.sh", "2.sh"):
        text = (no_slurm / script).read_text()
        text = text.replace(str(no_slurm), "RESULTS").replace(sys.executable, "PYTHON")
        assert text == (golden / script).read_text()


def test_what_tasks_are_left(no_slurm: Path) -> None:
    """Without accounting: what ``squeue`` does not list, and left no result, is gone."""
    queue = queue_of(no_slurm)
    slurm = Slurm(queue.launch)
    slurm.start(queue, 3)
    assert slurm.queued()
    assert slurm.ended() == []
    (no_slurm / "squeue").write_text("#!/bin/bash\necho 1_0 PENDING; echo 1_1 RUNNING\n")
    slurm._asked = 0.0 - 1e9
    (gone,) = slurm.ended()
    assert (gone.worker, gone.error) == ("1_2", "Slurm ended it before it could say why (killed, "
                                          "cancelled, or out of memory)")  # fmt: skip
    (no_slurm / "squeue").write_text("#!/bin/bash\nexit 1\n")
    slurm._asked = 0.0 - 1e9
    assert slurm.ended() == []  # a scheduler that does not answer says nothing
    assert slurm.queued()


def test_a_task_queues_itself_again(tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit")
    task = Task(queue_of(tmp_path))
    again = task.checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.function == task


def test_submitits_debug_executor_does_the_job(
    no_slurm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sbatch would have run, in this process; the same command then has the table."""
    submitit = pytest.importorskip("submitit")
    results = no_slurm / "results"
    words = ["model=digits_vit", "data=example", "limit=32", "device=cpu", f"results={results}"]
    given = [*words, "batch_size=16", "launch=slurm", "launch.workers=2", "launch.wait=false"]
    assert main([*given, "launch.piece=16"]) == 0
    pickled = results / ".launch" / "1_1" / "1_1_submitted.pkl"
    task = submitit.core.utils.DelayedSubmission.load(pickled).function
    for name, value in {
        "SUBMITIT_EXECUTOR": "debug",
        "SUBMITIT_FOLDER": str(results / ".launch" / "debug"),
        "SUBMITIT_DEBUG_JOB_ID": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(no_slurm)  # a worker goes where the command was given
    executor = submitit.AutoExecutor(results / ".launch" / "debug", cluster="debug")
    assert executor.submit(task).result() is None
    capsys.readouterr()
    assert main(given) == 0
    assert str(results) in capsys.readouterr().out
    (record,) = results.glob("*.json")
    said = json.loads(record.read_text())
    assert said["status"] == "done"
    assert [one["samples"] for one in said["provenance"]["workers"]] == [32]


def test_a_login_node_without_a_gpu(
    no_slurm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command opens the job without its device, submits, says how to follow it, and leaves."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    results = no_slurm / "results"
    words = ["model=digits_vit", "data=example", "limit=32", "device=cuda", f"results={results}"]
    given = ["launch=slurm", "launch.workers=2", "launch.piece=16", "launch.wait=false"]
    assert main([*words, *given, "batch_size=16", "workers=3"]) == 0
    said = capsys.readouterr()
    assert "1_0, 1_1" in said.out + said.err
    assert f"asap-eval jobs results={results}" in said.out + said.err
    assert "#SBATCH --gpus-per-node=1\n" in (no_slurm / "1.sh").read_text()
    assert main(["jobs", str(results)]) == 0
    assert "0/32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["launch=slurm", "launch.hours=0"], "launch.hours=0: give a number > 0"),
        (["launch=slurm", "launch.gpus=-1"], "launch.gpus=-1: give a number >= 0"),
        (["launch=slurm", "launch.setup=module"], "launch.setup='module' should be a list"),
        (["launch=slurm", "launch.partitions=a"], "launch.partitions"),
        (["launch=ray", "launch.restarts=-1"], "launch.restarts=-1: give a number >= 0"),
        (["launch=ray", "bench=keepmaps"], "workers that see no results folder cannot"),
        (["launch=slurm"], "there is no Slurm here (no sbatch, srun, squeue, scancel"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_refused(
    words: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("submitit")
    if "launch=ray" in words:
        pytest.importorskip("ray")
    monkeypatch.setenv("PATH", str(tmp_path))
    given = ["model=digits_vit", "data=example", "limit=8", "device=cpu", f"results={tmp_path}"]
    assert main([*given, *words]) in (1, 2)
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err


def test_the_manifests_of_the_page_can_be_asked_for() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    job, pods = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", page, re.S))
    (container,) = pods["spec"]["template"]["spec"]["containers"]
    for words in (shlex.split(job["spec"]["entrypoint"]), container["command"]):
        assert words[0] == "asap-eval"
        check(parsed(words[1:]))


def test_a_model_over_several_gpus_is_opened_without_them() -> None:
    """The command's copy lies whole on the CPU; its options, so its job, are those of workers."""
    pytest.importorskip("transformers")
    job = Job("llava_tiny", bench="vlm", weights="random", device="cuda")
    spec = dataclasses.replace(spec_of(job), device_map="auto")
    params = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name != "name"}
    loaded = load(dataclasses.replace(job, model_params=params), "cpu")
    assert loaded.params["device_map"] == "auto"
    assert {p.device.type for p in loaded.model.parameters()} == {"cpu"}
