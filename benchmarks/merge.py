"""What the end of a large job costs: its pieces put together, scored, compared and written.

    python benchmarks/merge.py --kind image --rows 50000
    python benchmarks/merge.py --kind question --rows 447793

Rows are those of a few samples (the bundled example; drawn pictures with questions of VQAv2, asked
of a small untrained model), again and again under new ids, laid down as pieces. A worker finds them
all there and makes the records, first the unpruned model's, then the method's, compared with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from asap_eval.cli import main as asap_eval
from asap_eval.launch.computer import Computer
from asap_eval.launch.launch import Launch
from asap_eval.launch.parts import Parts
from asap_eval.launch.queue import Queue, Queued
from asap_eval.launch.worker import work
from asap_eval.record import RunRecord, read_record, write_record
from asap_eval.record.journal import Journal, Row
from asap_eval.runner.earlier_records import journal_of
from asap_eval.runner.piece import Opening
from asap_eval.runner.pieces import pieces
from asap_eval.runner.prepare import Prepared, prepare
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


class Opened(Computer):
    """Has the job open: that is no part of the merge."""

    def __init__(self, queue: Queue, ready: Prepared) -> None:
        super().__init__(queue)
        self._opened = ready

    def ready(self, record: RunRecord) -> Prepared:
        return self._opened


def words_of(kind: str, folder: Path) -> list[str]:
    """The command line of a small run of this kind."""
    if kind == "image":
        return ["model=digits_vit", "data=example", "limit=64", "method=mass", "k=0.5"]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    import vlm_questions

    vlm_questions.write(folder / "questions", pictures=4)
    return ["model=llava_tiny", "bench=vlm", "tasks=[vqav2_val]", "bench.new_tokens=4",
            "method=fastv", f"data={folder / 'questions'}"]  # fmt: skip


def put_down(small: Path, folder: Path, count: int, size: int) -> tuple[Prepared, Parts]:
    """A running record of so many samples in a folder, all of its pieces there."""
    record = read_record(small)
    rows: list[Row] = Journal(journal_of(small).path).read()
    task = rows[0]["id"].rpartition("/")[0] if record.job.bench == "vlm" else ""
    ids = [f"{task}{'/' if task else ''}{at:09d}" for at in range(count)]
    ready = prepare(record.job)
    record.status = "running"
    record.provenance.data["n"] = count
    write_record(record, folder)
    parts = Parts(folder, record.stem)
    cut = pieces(range(BATCH, count, BATCH), count, size)
    parts.write_cut(cut, adopted=False)
    for piece in cut:
        places = range(piece.start, piece.stop)
        parts.whole(piece).write_text(
            "".join(
                json.dumps({**rows[at % len(rows)], "id": ids[at]}, separators=(",", ":")) + "\n"
                for at in places
            )
        )
    return dataclasses.replace(ready, samples=Many(ids), content="", searched=None), parts


def merged(ready: Prepared, parts: Parts, baseline: str | None) -> dict[str, Any]:
    """Seconds and memory of one merge."""
    jobs = (Queued(parts.stem, baseline),)
    queue = Queue(parts.results, jobs, Opening(), Launch(kind="join"), Path.cwd())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    work(queue, Opened(queue, ready))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_record(parts.record).status == "done", read_record(parts.record).error
    return {
        "method": ready.job.method,
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "peak_grew_mb": round((after - before) / 1024),
        "journal_mb": round(journal_of(parts.record).path.stat().st_size / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kind", choices=sorted(SIZES), default="image")
    parser.add_argument("--rows", type=int, default=50_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = words_of(asked.kind, folder)
        assert asap_eval([*words, f"results={folder / 'small'}"]) == 0
        found, baseline = [], None
        for small in sorted(
            (folder / "small").glob("*.json"), key=lambda p: "-none-" not in p.name
        ):
            large = folder / "large"
            ready, parts = put_down(small, large, asked.rows, SIZES[asked.kind])
            found.append(merged(ready, parts, baseline))
            baseline = parts.stem
    print(json.dumps({"machine": machine("cpu"), "rows": asked.rows, "merges": found}, indent=1))


if __name__ == "__main__":
    main()
