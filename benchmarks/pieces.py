"""What spreading a job costs beside computing it: claims, and the merge of many rows.

Rows are those of a few samples (the bundled example; drawn pictures with questions of VQAv2, asked
of a small untrained model), again and again under new ids. They are put down as pieces and made a
record by the merge that every job ends with, compared with an unpruned model's record of as many
rows. Nothing is computed by a model.

    python benchmarks/pieces.py --rows 50000 447793 --out benchmarks/pieces-cpu.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from asap_eval.cli import main as asap_eval
from asap_eval.launch.computer import Computer
from asap_eval.launch.launch import Launch
from asap_eval.launch.merge import merge
from asap_eval.launch.parts import Parts
from asap_eval.launch.queue import Queue
from asap_eval.record import read_record, write_record
from asap_eval.record.files import write_json
from asap_eval.record.journal import Journal, Row
from asap_eval.runner.earlier_records import journal_of
from asap_eval.runner.lock import locked_if_free
from asap_eval.runner.piece import Opening
from asap_eval.runner.pieces import Piece, pieces
from asap_eval.runner.prepare import prepare
from asap_eval.runner.provenance import machine

SIZES = {"image": 512, "question": 64}
"""Samples of a piece."""
BATCH = 32


@dataclasses.dataclass(frozen=True)
class Many:
    """Samples of these ids, which hold nothing."""

    ids: list[str]
    digest: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def content(self) -> str:
        return ""

    def check(self, start: int, stop: int) -> None:
        """Nothing changes while it is read."""


def words_of(kind: str, folder: Path) -> list[str]:
    """The command line of a small run of this kind."""
    if kind == "image":
        return ["model=digits_vit", "data=example", "method=mass", "k=0.5", "device=cpu"]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    import vlm_questions

    vlm_questions.write(folder / "questions", pictures=4)
    return ["model=llava_tiny", "bench=vlm", "tasks=[vqav2_val]", "bench.new_tokens=4",
            "method=fastv", "device=cpu", f"data={folder / 'questions'}"]  # fmt: skip


def named(rows: list[Row], count: int) -> list[str]:
    """Ids of so many samples; those of questions begin with their task."""
    before = "".join(rows[0]["id"].rpartition("/")[:2]) if "task" in rows[0] else ""
    return [f"{before}{at:09d}" for at in range(count)]


def small_run(folder: Path, unpruned: bool) -> tuple[Path, list[Row]]:
    """The record of the small run, or of its unpruned model, with its rows."""
    (path,) = (p for p in folder.glob("*.json") if ("-none-" in p.name) == unpruned)
    return path, Journal(journal_of(path).path).read()


def put_down(small: str, kind: str, unpruned: bool, count: int) -> None:
    """A running record of so many rows, all of its pieces there."""
    path, rows = small_run(Path(small), unpruned)
    ids = named(rows, count)
    folder = Path(small) / str(count)
    record = read_record(path)
    record.status = "running"
    record.provenance.data["n"] = count
    write_record(record, folder)
    parts = Parts(folder, record.stem)
    cut = pieces(range(BATCH, count, BATCH), count, SIZES[kind])
    parts.write_cut(cut, adopted=False)
    for piece in cut:
        places = range(piece.start, piece.stop)
        Journal(parts.whole(piece)).append(
            [{**rows[at % len(rows)], "id": ids[at]} for at in places]
        )


def merged(small: str, kind: str, unpruned: bool, count: int) -> dict[str, Any]:
    """Seconds, also those of the processor alone, and memory of the merge of a job."""
    folder = Path(small) / str(count)
    path, *others = sorted(folder.glob("*.json"), key=lambda p: ("-none-" in p.name) != unpruned)
    kept = None if unpruned else (others[0], read_record(others[0]))
    record, parts = read_record(path), Parts(folder, path.stem)
    samples = Many(named(small_run(Path(small), unpruned)[1], count))
    ready = dataclasses.replace(prepare(record.job), samples=samples, content="", searched=None)
    computer = Computer(Queue(folder, (), Opening(), Launch(), folder))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, begin, used = memory("VmRSS"), time.perf_counter(), time.process_time()
    merge(ready, record, parts, kept, computer)
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    assert read_record(path).status == "done"
    return {
        "kind": kind,
        "rows": count,
        "compared": not unpruned,
        "merge_s": round(seconds, 2),
        "cpu_s": round(used, 2),
        "more_memory_mb": round(memory("VmHWM") - before),
        "journal_mb": round(journal_of(path).path.stat().st_size / 1e6, 1),
    }


def memory(which: str) -> float:
    """MB that this process has (VmRSS), or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def claimed(kind: str, count: int) -> dict[str, Any]:
    """Milliseconds in which a worker finds what is missing, and takes and gives back a lock."""
    size = SIZES[kind]
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(Path(folder), "job")
        cut = [Piece(at, at + size) for at in range(0, count, size)]
        parts.write_cut(cut, adopted=False)
        for piece in cut[::2]:
            parts.whole(piece).touch()
        begin = time.perf_counter()
        for _ in range(20):
            parts.missing()
        looked = (time.perf_counter() - begin) / 20
        begin = time.perf_counter()
        for piece in cut[1::2]:
            with locked_if_free(parts.lock(piece)):
                pass
        held = (time.perf_counter() - begin) / max(1, len(cut[1::2]))
    return {
        "kind": kind,
        "rows": count,
        "pieces": len(cut),
        "look_ms": round(1e3 * looked, 2),
        "lock_ms": round(1e3 * held, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    merges = []
    with tempfile.TemporaryDirectory() as name:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1, maxtasksperchild=1) as pool:  # a process for each: its own peak
            for kind in asked.kinds:
                small = str(Path(name) / kind)
                assert asap_eval([*words_of(kind, Path(name)), f"results={small}"]) == 0
                for count in asked.rows:
                    for unpruned in (True, False):
                        pool.apply(put_down, (small, kind, unpruned, count))
                        merges.append(pool.apply(merged, (small, kind, unpruned, count)))
    said = {
        "machine": machine("cpu"),
        "merges": merges,
        "claims": [claimed(kind, count) for kind in asked.kinds for count in asked.rows],
    }
    if asked.out:
        write_json(asked.out, said)
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
