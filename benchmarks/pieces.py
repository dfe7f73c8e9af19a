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
from asap_eval.runner.prepare import Prepared, prepare
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


def put_down(results: Path, ready: Prepared, rows: list[Row]) -> tuple[Prepared, Parts]:
    """A running record of so many rows, all of its pieces there."""
    record = read_record(next(results.glob(f"*-{ready.job.method}-*.json")))
    count = len(rows)
    folder = results / str(count)
    record.status = "running"
    record.provenance.data["n"] = count
    write_record(record, folder)
    parts = Parts(folder, record.stem)
    cut = pieces(range(32, count, 32), count, SIZE)
    parts.write_cut(cut, adopted=False)
    for piece in cut:
        Journal(parts.whole(piece)).append(rows[piece.start : piece.stop])
    samples = Many([row["id"] for row in rows])
    return dataclasses.replace(ready, samples=samples, content="", searched=None), parts


def memory(which: str) -> float:
    """MB that this process has (VmRSS), or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def merged(results: str, count: int) -> dict[str, Any]:
    """Seconds and memory of the merge of one job, in a process of its own."""
    folder = Path(results)
    found = {}
    for method in ("none", "mass"):
        path = next(folder.glob(f"*-{method}-*.json"))
        ready = prepare(read_record(path).job)
        rows = spread(Journal(journal_of(path).path).read(), count)
        many, parts = put_down(folder, ready, rows)
        del rows
        kept = found.get("none")
        queue = Queue(parts.results, (), Opening(), Launch(), parts.results)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = memory("VmRSS")
        begin = time.perf_counter()
        merge(many, read_record(parts.record), parts, kept, Computer(queue))
        seconds = time.perf_counter() - begin
        found[method] = (parts.record, read_record(parts.record))
    size = journal_of(parts.record).path.stat().st_size
    return {
        "rows": count,
        "merge_s": round(seconds, 2),
        "more_memory_mb": round(memory("VmHWM") - before),
        "journal_mb": round(size / 1e6, 1),
    }


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
        with context.Pool(1, maxtasksperchild=1) as pool:  # a process each: its own peak
            merges = [pool.apply(merged, (folder, count)) for count in asked.rows]
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
