"""One job by several workers: the bytes of one process, whatever is killed on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import test_plugins
from pictures import TINY, picture_folder
from project import ROOT

from asap_eval.cli import main
from asap_eval.errors import AsapEvalError, BadValueError, UnreachableError
from asap_eval.launch import head, merge, worker
from asap_eval.launch.begin import begin
from asap_eval.launch.computer import Computer
from asap_eval.launch.devices import check_device, own_gpu, take_gpu, threads_for, visible_gpus
from asap_eval.launch.launch import Launch, launch_of
from asap_eval.launch.launcher import ENGINES, Ended, Launcher, launcher_of
from asap_eval.launch.parts import Parts, living
from asap_eval.launch.queue import Queue, Queued
from asap_eval.launch.worker import work
from asap_eval.record import Budget, Job, RunRecord, read_record, read_records, record_stem
from asap_eval.record.journal import Journal, Row
from asap_eval.runner import run
from asap_eval.runner.lock import is_held, locked, locked_if_free
from asap_eval.runner.piece import Opening, OtherJobError
from asap_eval.runner.pieces import Piece
from asap_eval.runner.prepare import prepare
from asap_eval.runner.progress import say_once
from asap_eval.runner.provenance import Request

N = 12
"""Pictures of the folder."""
OTHERWISE = ("command", "config", "started", "duration_s", "machine", "workers")
"""What of the provenance may differ between one process and several."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("data") / "pictures")


own_method = test_plugins.folder


@pytest.fixture(autouse=True)
def _awake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sleeps longer than a test needs."""
    monkeypatch.setattr(worker, "SHORTEST", 0.02)
    monkeypatch.setattr(worker, "LONGEST", 0.1)
    monkeypatch.setattr(worker, "EVERY", 0.0)
    monkeypatch.setattr(head, "EVERY", 0.05)


class Threads(Launcher):
    """An engine whose workers are threads, one after the other: nothing has to be started."""

    computer: type[Computer] = Computer
    running: threading.Thread

    def check(self, device: str) -> None:
        check_device(device)

    def count(self, device: str) -> int:
        return self.launch.workers or 1

    def start(self, queue: Queue, count: int) -> Sequence[str]:
        self._ends: list[Ended] = []
        thread = threading.Thread(target=self._run, args=(queue, count), daemon=True)
        type(self).running = thread
        thread.start()
        return [str(number) for number in range(count)]

    def _run(self, queue: Queue, count: int) -> None:
        for number in range(count):
            try:
                work(queue, self.computer(queue), name=f"thread{number}")
                error = None
            except Exception as raised:
                error = str(raised)
            self._ends.append(Ended(str(number), error))

    def ended(self) -> list[Ended]:
        found, self._ends = self._ends, []
        return found

    def stop(self) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[Threads]:
    """``launch=local`` without starting anything."""
    monkeypatch.setitem(ENGINES, "local", f"{__name__}:Threads")
    monkeypatch.setattr(sys.modules[__name__], "Threads", made := type("Made", (Threads,), {}))
    return made


def job_of(pictures: Path, **changes: Any) -> Job:
    job = Job(model="test_vit", weights="random", data=str(pictures), batch_size=2)
    return dataclasses.replace(job, **changes)


def given(pictures: Path, results: Path, *more: str) -> list[str]:
    return [*TINY, f"data={pictures}", "batch_size=2", f"results={results}", *more]


def timeless(record: RunRecord) -> dict[str, Any]:
    body = dataclasses.asdict(record)
    for name in OTHERWISE:
        body["provenance"].pop(name)
    return body


def assert_equal(one: Path, other: Path) -> None:
    """Both folders hold the same records, and the same bytes beside them."""
    pairs = [{r.stem: (p, r) for p, r in read_records(folder)[0]} for folder in (one, other)]
    assert pairs[0].keys() == pairs[1].keys()
    assert pairs[0]
    for stem, (path, record) in pairs[0].items():
        there, again = pairs[1][stem]
        assert record.status == again.status == "done"
        assert timeless(record) == timeless(again)
        for name in record.files or {}:
            assert path.with_name(name).read_bytes() == there.with_name(name).read_bytes()
    assert not list(other.glob(".*.parts"))


def begun(job: Job, results: Path, size: int = 4, **launch: Any) -> tuple[Queue, Parts]:
    """The queue of one job, whose record is running."""
    ready = prepare(job)
    path = results / f"{record_stem(ready.job, ready.key)}.json"
    with locked(path):
        begin(ready, path, Request({}, None), anew=False, size=size)
    keys = Launch(kind="local", piece=size, **launch)
    queue = Queue(results, (Queued(path.stem),), Opening(cache="off"), keys, Path.cwd())
    return queue, Parts(results, path.stem)


class Stopped(BaseException):
    """What no handler of a worker takes, as little as it would a kill."""


class Dying(Computer):
    """A worker that is gone after some batches."""

    after = 3

    def rows(self, record: RunRecord, piece: Piece) -> Generator[list[Row], None, None]:
        for batch in super().rows(record, piece):
            if self.after == 0:
                raise Stopped
            self.after -= 1
            yield batch


class Counting(Computer):
    """How many samples it computes."""

    samples = 0

    def rows(self, record: RunRecord, piece: Piece) -> Generator[list[Row], None, None]:
        for batch in super().rows(record, piece):
            self.samples += len(batch)
            yield batch


# Who lives


def test_a_worker_waits_for_the_lock_that_says_that_it_lives(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks whether a worker lives takes its lock for a moment."""
    queue, parts = begun(job_of(pictures, limit=4), tmp_path)
    seen, asked = [], []

    class Alive(Computer):
        def rows(self, record: RunRecord, piece: Piece) -> Generator[list[Row], None, None]:
            seen.extend(living(tmp_path, [parts.stem]))
            return super().rows(record, piece)

    @contextlib.contextmanager
    def held_at_first(file: Path) -> Generator[bool, None, None]:
        asked.append(file)
        if asked.count(file) == 1 and file.parent.name == "workers":
            yield False
            return
        with locked_if_free(file) as mine:
            yield mine

    monkeypatch.setattr(worker, "locked_if_free", held_at_first)
    work(queue, Alive(queue), name="one")
    assert seen == [f"{os.uname().nodename}-one"]


def test_the_lock_of_a_dead_worker_is_removed_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".locks" / "workers" / "node-1.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    unlink, held = Path.unlink, []

    def looking(self: Path, missing_ok: bool = False) -> None:
        if self == lock:
            held.append(is_held(lock))
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", looking)
    assert living(tmp_path, ["any"]) == []
    assert held == [True]
    assert not lock.exists()


# The same bytes


@pytest.mark.usefixtures("own_method")
def test_a_table_by_workers_is_that_of_one_process(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two real processes; a budget, a baseline, and a method from a file of the user's."""
    table = [
        "methods=[mass,key_length]",
        "plugins=my_method.py",
        "budget=macs",
        "target=-20",
        "budget.samples=4",
        "limit=8",
    ]
    assert main(given(pictures, tmp_path / "one", *table)) == 0
    said = capsys.readouterr().out
    several = ["launch=local", "launch.workers=2", "launch.piece=4"]
    assert main(given(pictures, tmp_path / "two", *table, *several)) == 0
    assert_equal(tmp_path / "one", tmp_path / "two")
    table_of = [out.replace(str(tmp_path / at), "") for out, at in
                ((said, "one"), (capsys.readouterr().out, "two"))]  # fmt: skip
    assert table_of[0] == table_of[1]
    for _, record in read_records(tmp_path / "two")[0]:
        workers = record.provenance.workers
        assert sum(one["samples"] for one in workers) == 8
        assert sum(one["pieces"] for one in workers) == 2


def test_processes_that_join_each_other(pictures: Path, tmp_path: Path) -> None:
    """Under torchrun; the first one alone prints the table."""
    table = ["method=random", "limit=8"]
    assert main(given(pictures, tmp_path / "one", *table)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               "-m", "asap_eval", *given(pictures, tmp_path / "two", *table, "launch=join",
                                         "launch.piece=2")]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("-random-") == 1
    assert_equal(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("bench", ["walk", "saliency", "keepmaps", "vlm"])
def test_other_benchmarks_by_pieces(
    bench: str, pictures: Path, questions: Path, tmp_path: Path
) -> None:
    """Files of their own beside the record included."""
    job = job_of(pictures, bench=bench, limit=8)
    if bench == "vlm":
        params = {"tasks": ["pope", "gqa"], "new_tokens": 2}
        job = Job("llava_tiny", data=str(questions), bench="vlm", bench_params=params, limit=4)
        job = dataclasses.replace(job, batch_size=2)
    if bench == "saliency":
        from test_saliency import photographs

        photographs(tmp_path / "photographs", [(48, 40)] * 8)
        job = job_of(tmp_path / "photographs", bench=bench)
    run(job, results=tmp_path / "one", cache="off")
    queue, _ = begun(job, tmp_path / "two", size=2)
    with pytest.raises(Stopped):
        work(queue, Dying(queue), name="dies")
    work(queue)
    assert_equal(tmp_path / "one", tmp_path / "two")


@pytest.mark.usefixtures("engine")
def test_what_a_method_counts_by_pieces(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples whose windows cannot fill their share: the same sums, and the same line below."""
    table = ["model=llava_tiny", "bench=vlm", f"data={questions}", "tasks=gqa", "limit=4"]
    table += ["bench.new_tokens=1", "batch_size=1", "method=holov", "k=130", "method.windows=6"]
    said = []
    for name, more in (
        ("one", []),
        ("two", ["launch=local", "launch.workers=2", "launch.piece=1"]),
    ):
        assert main([*table, f"results={tmp_path / name}", *more]) == 0
        said.append(" ".join(capsys.readouterr().out.replace(str(tmp_path / name), "").split()))
    assert said[0] == said[1]
    assert_equal(tmp_path / "one", tmp_path / "two")
    (record,) = [r for _, r in read_records(tmp_path / "two")[0] if r.job.method == "holov"]
    assert record.counted is not None
    assert record.counted["missing"].total > 0
    assert record.counted["missing"].of == 4
    assert f"{record.counted['missing'].total} image tokens fewer than the budget" in said[1]


def test_a_worker_takes_over_after_the_last_batch(pictures: Path, tmp_path: Path) -> None:
    run(job_of(pictures), results=tmp_path / "one", cache="off")
    queue, parts = begun(job_of(pictures), tmp_path / "two", size=6)
    with pytest.raises(Stopped):
        work(queue, Dying(queue), name="dies")
    assert len(parts.missing()) == 1
    assert not living(tmp_path / "two", [parts.stem])
    dying = Dying(queue)
    dying.after = 2
    with pytest.raises(Stopped):
        work(queue, dying, name="too")
    assert [(w.samples, w.pieces) for w in parts.workers()] == [(6, [0]), (4, [])]
    work(queue, name="ends")
    assert_equal(tmp_path / "one", tmp_path / "two")
    workers = read_record(parts.record).provenance.workers
    assert [(one["samples"], one["pieces"]) for one in workers] == [(6, 1), (2, 1), (4, 0)]


def test_a_worker_that_begins_again_keeps_what_it_did(pictures: Path, tmp_path: Path) -> None:
    """As the thread of an actor of Ray that was started again."""
    queue, parts = begun(job_of(pictures), tmp_path)
    with pytest.raises(Stopped):
        work(queue, Dying(queue), name="actor")
    (before,) = parts.workers()
    assert (before.samples, before.pieces) == (6, [0])
    work(queue, name="actor")
    (found,) = read_record(parts.record).provenance.workers
    assert (found["samples"], found["pieces"]) == (N, 3)


def test_without_locks_two_may_do_the_same(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job_of(pictures), results=tmp_path / "one", cache="off")
    queue, parts = begun(job_of(pictures), tmp_path / "two", size=6, locks="off")
    with pytest.raises(Stopped):
        work(queue, Dying(queue), name="dies")
    assert [path.name for path in parts.folder.glob("*.part")] == []
    dying = Dying(queue)
    dying.after = 1
    with pytest.raises(Stopped):
        work(queue, dying, name="slow")
    (left,) = parts.folder.glob("*.part")
    assert left.name == f"000000006.{os.uname().nodename}-slow.part"
    monkeypatch.setattr(worker, "FRESH", 0.0)
    work(queue, name="ends")
    assert_equal(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_without_locks_two_may_end_the_same_job(
    moment: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the pieces are put together, and after that."""
    run(job_of(pictures), results=tmp_path / "one", cache="off")
    queue, parts = begun(job_of(pictures), tmp_path / "two", locks="off")

    class Overtaken(Computer):
        over = False

        def ready(self, record: RunRecord) -> Any:
            self.other("before")
            return super().ready(record)

        def other(self, at: str) -> None:
            if at == moment and not self.over and not parts.missing():
                self.over = True
                work(queue, name="faster")

    def joining(*given: Any) -> list[Row]:
        rows = joined(*given)
        slower.other("after")
        return rows

    joined = merge.joined
    monkeypatch.setattr(merge, "joined", joining)
    slower = Overtaken(queue)
    work(queue, slower, name="slower")
    assert slower.over
    assert_equal(tmp_path / "one", tmp_path / "two")
    workers = read_record(parts.record).provenance.workers
    assert [one["samples"] for one in workers] == [N]


# Between one process and several


def test_one_process_and_workers_take_turns(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: type[Threads]
) -> None:
    job = ["method=random", "bench=imagenet"]
    assert main(given(pictures, tmp_path / "one", *job)) == 0
    two, three = tmp_path / "two", tmp_path / "three"
    append = Journal.append

    def stopping(self: Journal, rows: list[Row]) -> None:
        if "random" in str(self.path) and self.path.exists() and len(self.read()) >= 4:
            raise KeyboardInterrupt
        append(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", stopping)
        assert main(given(pictures, two, *job)) == 130
    assert main(given(pictures, two, *job, "launch=local", "launch.piece=3")) == 0
    assert_equal(tmp_path / "one", two)
    (record,) = (r for _, r in read_records(two)[0] if r.job.method == "random")
    assert sum(one["samples"] for one in record.provenance.workers) == N - 4

    # And back: workers that are gone, then one process.
    queue, parts = begun(job_of(pictures, method="none"), three, size=4)
    with pytest.raises(Stopped):
        work(queue, Dying(queue), name="dies")
    assert parts.folder.exists()
    assert main(given(pictures, three, *job)) == 0
    assert_equal(tmp_path / "one", three)
    (record,) = (r for _, r in read_records(three)[0] if r.job.method == "none")
    assert [one["samples"] for one in record.provenance.workers] == [N - 6, 6]


def test_sums_of_one_process_are_gone_on_with(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a benchmark keeps beside the record belongs to the first piece then."""
    job = job_of(pictures, bench="walk")
    run(job, results=tmp_path / "one", cache="off")
    append = Journal.append

    def stopping(self: Journal, rows: list[Row]) -> None:
        if self.path.exists():
            raise Stopped
        append(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", stopping)
        with pytest.raises(Stopped):
            run(job, results=tmp_path / "two", cache="off")
    queue, parts = begun(job, tmp_path / "two", size=3)
    assert parts.adopted()
    assert parts.cut() == [Piece(0, 2), Piece(2, 6), Piece(6, 10), Piece(10, 12)]
    work(queue)
    assert_equal(tmp_path / "one", tmp_path / "two")


def test_the_call_from_python_leaves_nothing_of_workers(pictures: Path, tmp_path: Path) -> None:
    queue, parts = begun(job_of(pictures), tmp_path, size=4)
    with pytest.raises(Stopped):
        work(queue, Dying(queue), name="dies")
    assert run(job_of(pictures), results=tmp_path).record.status == "done"
    assert not parts.folder.exists()


# Kills

KILLED = """
import os, pickle, random, signal, sys, time
from pathlib import Path
from asap_eval.launch import merge, worker
from asap_eval.record.journal import Journal

queue, moment = pickle.loads(Path(sys.argv[1]).read_bytes()), sys.argv[2]
random.seed(moment)
worker.SHORTEST = 0.05
append, conclude = Journal.append, merge.conclude


def halting():
    os.write(said, b".")
    os.read(goes_on, 1)

def appending(self, rows):
    append(self, rows)
    if moment == "piece":
        halting()

def merging(*args):
    if moment == "merge":
        halting()
    conclude(*args)
    os.read(goes_on, 1)

Journal.append, merge.conclude = appending, merging
for _ in range(5):
    (heard, said), (goes_on, let) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(let)  # whose test is gone, it goes on
        worker.work(queue)
        os._exit(0)
    os.close(said)
    os.read(heard, 1)
    os.write(let, b".")
    time.sleep(random.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    print(os.WIFSIGNALED(os.waitpid(child, 0)[1]))
"""
"""Five workers one after the other, each killed at a random moment of what it does: between its
first batch and its second, which is the last that it can write, or before its record is written."""


@pytest.mark.parametrize("moment", ["piece", "merge"])
def test_kills_at_random_moments(moment: str, pictures: Path, tmp_path: Path) -> None:
    run(job_of(pictures, batch_size=1), results=tmp_path / "one", cache="off")
    queue, parts = begun(job_of(pictures, batch_size=1), tmp_path / "two", size=4)
    (tmp_path / "queue").write_bytes(pickle.dumps(queue))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "queue"), moment]
    killed = subprocess.run(command, env=env, capture_output=True, text=True)
    assert killed.stdout.split() == ["True"] * 5, killed.stderr
    assert read_record(parts.record).status == "running"
    files = [*parts.folder.glob("*.jsonl"), *parts.folder.glob("*.part")]
    written = sum(file.read_bytes().count(b"\n") for file in files)
    assert (written == N) if moment == "merge" else (5 <= written < N)
    computed = Counting(queue)
    work(queue, computed)
    assert computed.samples == N - written  # nothing that was written is computed again
    assert_equal(tmp_path / "one", tmp_path / "two")


def test_a_killed_head_is_attached_to(pictures: Path, tmp_path: Path) -> None:
    """Its workers go on; the same command waits for them, and starts no others."""
    job = ["method=none", "batch_size=1"]
    assert main(given(pictures, tmp_path / "one", *job)) == 0
    two = tmp_path / "two"
    command = [sys.executable, "-m", "asap_eval", *given(pictures, two, *job), "launch=local",
               "launch.piece=2"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 200
    while not list(two.glob(".locks/workers/*.json")) and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(given(pictures, two, *job, "launch=local", "launch.piece=2")) == 0
    assert_equal(tmp_path / "one", two)


# Errors


class NoMemory(Computer):
    """Too little memory for one method."""

    tries = 0

    def rows(self, record: RunRecord, piece: Piece) -> Generator[list[Row], None, None]:
        if record.job.method == "random":
            type(self).tries += 1
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return super().rows(record, piece)


def test_out_of_memory_ends_a_row_and_no_other(
    pictures: Path, tmp_path: Path, engine: type[Threads], capsys: pytest.CaptureFixture[str]
) -> None:
    NoMemory.tries = 0
    engine.computer = NoMemory
    table = ["methods=[random,mass]", "limit=4", "launch=local", "launch.retries=1"]
    assert main(given(pictures, tmp_path, *table)) == 1
    assert NoMemory.tries == 2
    said = capsys.readouterr()
    assert "Out of memory on cpu at batch_size=2" in said.err
    assert "(worker on " in said.err
    by_method = {r.job.method: r for _, r in read_records(tmp_path)[0]}
    assert by_method["mass"].status == by_method["none"].status == "done"
    assert by_method["random"].status == "failed"
    engine.computer = Computer
    assert main(given(pictures, tmp_path, *table)) == 0  # what was done stays


def test_a_piece_that_failed_once_is_tried_again(
    pictures: Path, tmp_path: Path, engine: type[Threads]
) -> None:
    class Once(Computer):
        failed = False

        def rows(self, record: RunRecord, piece: Piece) -> Generator[list[Row], None, None]:
            if not type(self).failed:
                type(self).failed = True
                raise RuntimeError("can't allocate memory")
            return super().rows(record, piece)

    engine.computer = Once
    assert main(given(pictures, tmp_path, "limit=4", "launch=local", "launch.piece=2")) == 0
    assert Once.failed


def test_a_full_disk_loses_nothing(
    pictures: Path, tmp_path: Path, engine: type[Threads], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    append = Journal.append

    def full(self: Journal, rows: list[Row]) -> None:
        if self.path.name.startswith("000000004"):
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, rows)

    command = given(pictures, tmp_path, "launch=local", "launch.piece=4", "launch.retries=0")
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", full)
        assert main(command) == 1
    assert "The disk is full" in capsys.readouterr().err
    (parts,) = tmp_path.glob(".*.parts")
    assert (parts / "000000000.jsonl").exists()
    assert main(command) == 0


def test_a_disk_that_is_full_for_a_workers_word(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    queue, parts = begun(job_of(pictures), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Parts, "write_worker", full)
        with pytest.raises(AsapEvalError, match=r"^The disk is full"):
            work(queue)
    work(queue)
    assert read_record(parts.record).status == "done"


def test_a_worker_with_other_code_is_refused(
    pictures: Path, tmp_path: Path, engine: type[Threads], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    digest = "asap_eval.runner.prepare.sources_digest"

    class Elsewhere(Computer):
        def ready(self, record: RunRecord) -> Any:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(digest, lambda _: "74a5" + 60 * "0")
                return super().ready(record)

    engine.computer = Elsewhere
    assert main(given(pictures, tmp_path, "limit=4", "launch=local")) == 1
    said = capsys.readouterr().err
    host = os.uname().nodename
    assert f"The worker on {host} has other code" in said
    assert "74a50000" in said
    assert "install the same version" in said


def test_data_that_a_worker_lacks(pictures: Path, tmp_path: Path) -> None:
    """Missing, and other than where the command was given."""
    data = picture_folder(tmp_path / "here", each=1)
    queue, parts = begun(job_of(data), tmp_path / "out")
    file = min(data.glob("*/000.png"))
    content = file.read_bytes()
    file.write_bytes(content[:-9] + b"\0" * 9)
    os.utime(file, (1, 1))
    with pytest.raises(OtherJobError, match="has other data"):
        work(queue, name="first")
    data.rename(tmp_path / "gone")
    with pytest.raises(AsapEvalError, match="here"):
        work(queue, name="second")
    assert all(w.error is not None and not w.error.started for w in parts.workers())


def test_data_of_a_budget_that_changed_ends_the_row(pictures: Path, tmp_path: Path) -> None:
    """Also those pictures that the knob alone was searched on."""

    class Meanwhile(Computer):
        def calibration(self, record: RunRecord) -> Any:
            found = super().calibration(record)
            os.utime(max(data.glob("*/*.png")), (1, 1))
            return found

    data = picture_folder(tmp_path / "here", each=2)
    budget = Budget("macs", -20.0, samples=2)
    job = job_of(data, method="mass", budget=budget, limit=4)
    queue, parts = begun(job, tmp_path / "out")
    work(queue, Meanwhile(queue))
    record = read_record(parts.record)
    assert record.status == "failed"
    assert "has other bytes or another time" in (record.error or "")
    assert record.provenance.calibration is None


def test_a_budget_that_is_not_met_is_that_rows_error(
    pictures: Path, tmp_path: Path, engine: type[Threads], capsys: pytest.CaptureFixture[str]
) -> None:
    table = ["methods=[mass,random]", "budget=macs", "target=-99.9", "limit=4", "launch=local"]
    assert main(given(pictures, tmp_path, *table)) == 1
    assert "reach" in capsys.readouterr().err
    by_method = {r.job.method: r.status for _, r in read_records(tmp_path)[0]}
    assert by_method == {"none": "done", "mass": "failed", "random": "failed"}


def test_the_kind_of_an_error_reaches_the_head() -> None:
    from asap_eval.launch.parts import Failure

    made = head._error_of(Failure("UnreachableError", "No.", "node7", "/log"))
    assert isinstance(made, UnreachableError)
    assert str(made) == "No. (worker on node7, log /log)"
    assert type(head._error_of(Failure("ValueError", "x", "node7"))) is AsapEvalError


def test_nobody_left(
    pictures: Path, tmp_path: Path, engine: type[Threads], capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(Computer):
        def rows(self, record: RunRecord, piece: Piece) -> Generator[list[Row], None, None]:
            raise RuntimeError("CUDA error: device lost")

    engine.computer = Gone
    assert main(given(pictures, tmp_path, "limit=4", "launch=local", "launch.retries=5")) == 1
    said = capsys.readouterr().err
    assert "No worker is left, and 1 of 1 jobs are not done" in said
    assert "device lost" in said


def test_a_damaged_piece_is_computed_again(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(job_of(pictures), results=tmp_path / "one", cache="off")
    queue, parts = begun(job_of(pictures), tmp_path / "two", size=4)
    with pytest.raises(Stopped):
        work(queue, Dying(queue), name="dies")
    whole = parts.whole(Piece(0, 4))
    whole.write_bytes(whole.read_bytes()[:-9])
    work(queue)
    assert "It is computed again" in capsys.readouterr().err
    assert_equal(tmp_path / "one", tmp_path / "two")


def test_two_heads_share_the_work(pictures: Path, tmp_path: Path) -> None:
    """A second command begins the job while a worker of the first is in a piece."""
    run(job_of(pictures), results=tmp_path / "one", cache="off")

    class Meanwhile(Computer):
        def rows(self, record: RunRecord, piece: Piece) -> Generator[list[Row], None, None]:
            found = list(super().rows(record, piece))
            yield found[0]
            again, parts = begun(job_of(pictures), tmp_path / "two", size=3)
            assert living(tmp_path / "two", [parts.stem])
            assert [p.stop - p.start for p in parts.cut()] == [4, 4, 4]  # the first one's cut
            assert again.jobs == queue.jobs
            yield from found[1:]

    queue, _ = begun(job_of(pictures), tmp_path / "two", size=4)
    work(queue, Meanwhile(queue))
    assert_equal(tmp_path / "one", tmp_path / "two")


# What the command line says


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "k=0.5,1", "method=random", "hydra/launcher=joblib"], "lose exit codes"),
        (["launch=local", "cache=of"], "Unknown value of cache 'of'"),
        (["launch=local", "launch.workers=0"], "launch.workers=0: give a number >= 1"),
        (["launch=local", "launch.partition=gpu"], "launch.partition"),
        (["launch=pbs"], "Unknown launch 'pbs'"),
        (["launch=join", "force=true"], "force=true with launch=join"),
        (["launch=local", "launch.locks=off", "bench=walk"], "launch.locks=off with bench=walk"),
        (["launch=local", "launch.workers=2", "speed=true"], "speed=true on a CPU"),
    ],
)
def test_refused(
    words: list[str], said: str, pictures: Path, tmp_path: Path, engine: type[Threads],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(given(pictures, tmp_path, *words)) in (1, 2)
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_speed_of_processes_that_join_on_a_cpu(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(given(pictures, tmp_path, "launch=join", "speed=true")) in (1, 2)
    assert "speed=true on a CPU with several workers" in capsys.readouterr().err


def test_a_place_that_takes_no_records(
    pictures: Path, tmp_path: Path, engine: type[Threads], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(given(pictures, tmp_path / "file", "launch=local")) in (1, 2)
    assert f"results={tmp_path / 'file'}: {tmp_path / 'file'} is a file" in capsys.readouterr().err


def test_what_nobody_chose_is_said_once(
    tmp_path: Path, engine: type[Threads], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    say_once.cache_clear()
    words = ["model=digits_vit", "methods=[mass,random]", "limit=4", "batch_size=2", "device=cpu"]
    assert main([*words, f"results={tmp_path}", "launch=local"]) == 0
    assert capsys.readouterr().err.count("images are evaluated. Your own: data=<folder>.") == 1


def test_plan_says_pieces_and_workers(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["launch=local", "launch.workers=2", "launch.piece=4", "plan=true"]
    assert main(given(pictures, tmp_path, *more)) == 0
    assert "3 pieces of up to 4 samples, 2 workers, about 6 samples each" in capsys.readouterr().out


def test_a_sweep_is_one_list(
    pictures: Path, tmp_path: Path, engine: type[Threads], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "method=random", "k=0.5,0.75", "limit=4"]
    assert main([*words[:1], *given(pictures, tmp_path / "one", *words[1:])]) == 0
    capsys.readouterr()
    assert main([*words[:1], *given(pictures, tmp_path / "two", *words[1:], "launch=local")]) == 0
    assert_equal(tmp_path / "one", tmp_path / "two")
    said = capsys.readouterr()
    assert said.out.count("-random-") == 2
    assert len(read_records(tmp_path / "two")[0]) == 3


def test_not_waiting_says_how_to_follow(
    pictures: Path, tmp_path: Path, engine: type[Threads], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given(pictures, tmp_path, "limit=4", "launch=local", "launch.wait=false")) == 0
    assert "asap-eval jobs results=" in capsys.readouterr().err
    engine.running.join()
    assert read_records(tmp_path)[0][0][1].status == "done"


def test_pieces_of_a_row_that_is_done_are_removed(
    pictures: Path, tmp_path: Path, engine: type[Threads]
) -> None:
    """Left by a stop between the record and their removal."""
    command = given(pictures, tmp_path, "limit=4", "launch=local")
    assert main(command) == 0
    ((path, _),) = read_records(tmp_path)[0]
    left = Parts(tmp_path, path.stem)
    left.write_cut([Piece(0, 4)], adopted=False)
    assert main(command) == 0
    assert not left.folder.exists()


def test_silence_is_said(
    pictures: Path, tmp_path: Path, engine: type[Threads], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(engine, "_run", lambda *_: None)
    monkeypatch.setattr(engine, "start", lambda *_: ["4711"])
    monkeypatch.setattr(engine, "ended", lambda _: [])
    assert main(given(pictures, tmp_path, "limit=4", "launch=local", "launch.silence=0.2")) == 1
    assert "No word of any worker for 0.2 s. Look at 4711" in capsys.readouterr().err


def test_a_file_system_without_locks_is_noticed(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queue, _ = begun(job_of(pictures, limit=4), tmp_path)
    beacon = tmp_path / "beacon"
    beacon.touch()  # the head lives, and nobody holds it
    work(dataclasses.replace(queue, beacon=beacon))
    assert "has no locks that" in capsys.readouterr().err
    assert read_records(tmp_path)[0][0][1].status == "done"


@pytest.mark.parametrize("flock", ["missing", "lies"])
def test_a_file_system_without_flock_is_said_once(
    flock: str, pictures: Path, tmp_path: Path, engine: type[Threads],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It says so itself, or gives every lock to everybody."""

    def given_to_all(file: Any, how: int) -> None:
        if flock == "missing":
            raise OSError(errno.ENOSYS, "Function not implemented")

    assert main(given(pictures, tmp_path / "one")) == 0
    capsys.readouterr()
    say_once.cache_clear()
    monkeypatch.setattr("fcntl.flock", given_to_all)
    two = tmp_path / "two"
    with warnings.catch_warnings(record=True) as others:
        assert main(given(pictures, two, "launch=local")) == 0
    assert capsys.readouterr().err.count(f"{two} has no locks") == 1
    assert not [one for one in others if "flock" in str(one.message)]
    assert_equal(tmp_path / "one", two)
    assert main(given(pictures, two, "launch=local", "bench=walk")) in (1, 2)
    assert "two workers could write the same file" in capsys.readouterr().err


def test_files_of_a_benchmark_need_locks(pictures: Path, tmp_path: Path) -> None:
    queue, parts = begun(job_of(pictures, bench="walk", limit=4), tmp_path)
    beacon = tmp_path / "beacon"
    beacon.touch()
    with pytest.raises(BadValueError, match=r"No locks that .* sees with bench=walk: two workers"):
        work(dataclasses.replace(queue, beacon=beacon))
    (left,) = parts.workers()
    assert left.error is not None
    assert not left.error.started
    assert len(parts.missing()) == 1


def test_devices_of_workers() -> None:
    env = {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_LOCALID": "5"}
    assert visible_gpus(env) == ["2", "3"]
    take_gpu(env)
    assert env["CUDA_VISIBLE_DEVICES"] == "3"
    alone = {"CUDA_VISIBLE_DEVICES": "7", "LOCAL_RANK": "3"}
    take_gpu(alone)
    assert alone["CUDA_VISIBLE_DEVICES"] == "7"
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    cores = len(os.sched_getaffinity(0))
    assert threads_for(1, {}) == str(cores)
    assert threads_for(10 * cores, {}) == "1"
    assert threads_for(2, {"OMP_NUM_THREADS": "3"}) is None
    with pytest.raises(BadValueError, match="names one GPU"):
        check_device("cuda:1")


def test_a_second_command_takes_the_gpus_that_are_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with own_gpu(tmp_path, ["2", "3"]) as first, own_gpu(tmp_path, ["2", "3"]) as second:
        with own_gpu(tmp_path, ["2", "3", "4"]) as third, own_gpu(tmp_path, ["3"]) as shared:
            assert (first, second, third, shared) == ("2", "3", "4", "3")
            assert "have all GPUs that are visible" in capsys.readouterr().err
        with own_gpu(tmp_path, []) as none:
            assert none is None
    with own_gpu(tmp_path, ["2", "3"]) as again:
        assert again == "2"


def test_a_second_command_gives_the_same_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of four workers is missing: it has the threads that it would have had among four."""
    local = pytest.importorskip("asap_eval.launch.local")
    submitit = pytest.importorskip("submitit")
    asked: list[int] = []
    given: list[tuple[Any, ...]] = []

    class Executor:
        def __init__(self, folder: Path) -> None:
            folder.mkdir(parents=True)

        def update_parameters(self, **_: Any) -> None:
            pass

        def submit(self, function: Any, *words: Any) -> Any:
            given.append(words)
            return SimpleNamespace(job_id=len(given))

    monkeypatch.setattr(submitit, "LocalExecutor", Executor)
    monkeypatch.setattr(local, "threads_for", lambda count: asked.append(count))
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1", "2", "3"])
    engine = local.Local(Launch(kind="local"))
    engine.check("cuda")
    assert engine.count("cuda") == 4
    queue = Queue(tmp_path, (), Opening(), engine.launch, tmp_path, workers=4)
    assert engine.start(queue, 1) == ["1"]
    assert asked == [4]
    assert given == [(queue, ["0", "1", "2", "3"])]  # it finds the one that is free


def test_keys_are_typed() -> None:
    launch = launch_of({"kind": "slurm", "workers": 4, "partition": "gpu"})
    assert (launch.workers, launch.engine, launch.spreads) == (4, {"partition": "gpu"}, True)
    assert not Launch().spreads
    with pytest.raises(BadValueError, match=r"launch\.retries=-1"):
        Launch(retries=-1)
    with pytest.raises(AsapEvalError, match="many"):
        launch_of({"kind": "local", "workers": "many"})
    with pytest.raises(AsapEvalError, match="pbs"):
        launcher_of(Launch(kind="pbs"))
