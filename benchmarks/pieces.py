"""What spreading a job costs beside computing it: claims, and the merge of many rows.

The rows are those of the bundled example, again and again under new ids; they are put down as
pieces of 512 and made a record by the merge that every job ends with, compared with an unpruned
model's record of as many rows. Nothing is computed by a model.

    python benchmarks/pieces.py --rows 50000 447793 1000000 --out benchmarks/pieces-cpu.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
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

SIZE = 512
"""Samples of a piece."""
WORDS = ["model=digits_vit", "data=example", "method=mass", "k=0.5", "device=cpu"]


@dataclasses.dataclass(frozen=True)
class Many:
    """Samples of these ids, which hold nothing."""

    ids: list[str]
    digest: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def content(self) -> str:
        return ""


def spread(rows: list[Row], count: int) -> list[Row]:
    return [{**rows[at % len(rows)], "id": f"{at:09d}"} for at in range(count)]


def put_down(results: str, method: str, count: int) -> None:
    """A running record of so many rows, all of its pieces there."""
    folder = Path(results)
    path = next(folder.glob(f"*-{method}-*.json"))
    rows = spread(Journal(journal_of(path).path).read(), count)
    record = read_record(path)
    record.status = "running"
    record.provenance.data["n"] = count
    write_record(record, folder / str(count))
    parts = Parts(folder / str(count), record.stem)
    cut = pieces(range(32, count, 32), count, SIZE)
    parts.write_cut(cut, adopted=False)
    for piece in cut:
        Journal(parts.whole(piece)).append(rows[piece.start : piece.stop])


def merged(results: str, method: str, count: int) -> dict[str, Any]:
    """Seconds and memory of the merge of a job that was put down."""
    folder = Path(results) / str(count)
    path, *others = sorted(folder.glob("*.json"), key=lambda one: f"-{method}-" not in one.name)
    kept = None if method == "none" else (others[0], read_record(others[0]))
    record, parts = read_record(path), Parts(folder, path.stem)
    samples = Many([f"{at:09d}" for at in range(count)])
    ready = dataclasses.replace(prepare(record.job), samples=samples, content="", searched=None)
    computer = Computer(Queue(folder, (), Opening(), Launch(), folder))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, begin = memory("VmRSS"), time.perf_counter()
    merge(ready, record, parts, kept, computer)
    seconds = time.perf_counter() - begin
    return {
        "rows": count,
        "merge_s": round(seconds, 2),
        "more_memory_mb": round(memory("VmHWM") - before),
        "journal_mb": round(journal_of(path).path.stat().st_size / 1e6, 1),
    }


def memory(which: str) -> float:
    """MB that this process has (VmRSS), or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def claimed(count: int) -> dict[str, Any]:
    """Milliseconds in which a worker finds what is missing, and takes and gives back a lock."""
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(Path(folder), "job")
        cut = [Piece(at, at + SIZE) for at in range(0, count, SIZE)]
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
        "rows": count,
        "pieces": len(cut),
        "look_ms": round(1e3 * looked, 2),
        "lock_ms": round(1e3 * held, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        assert asap_eval([*WORDS, f"results={folder}"]) == 0
        context = multiprocessing.get_context("spawn")
        merges = []
        with context.Pool(1, maxtasksperchild=1) as pool:  # a process for each: its own peak
            for count in asked.rows:
                for method in ("none", "mass"):
                    pool.apply(put_down, (folder, method, count))
                    found = pool.apply(merged, (folder, method, count))
                merges.append(found)
    said = {
        "machine": machine("cpu"),
        "merges": merges,
        "claims": [claimed(count) for count in asked.rows],
    }
    if asked.out:
        write_json(asked.out, said)
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
