"""How much faster two workers are than one, and whether they write the same bytes.

    OMP_NUM_THREADS=1 python benchmarks/scale.py --images 2000 --workers 1 2

A job over pictures of noise, with random weights, by ``launch=local`` in a folder of its own for
each number of workers. Seconds are those from the first word of the first worker to the last one,
and the merge (`provenance.duration_s`): imports and the opening of the model are left out, and are
in ``wall_s``. Run it on a machine that does nothing else, with one thread a worker.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from asap_eval.cli import main as asap_eval
from asap_eval.record import read_records
from asap_eval.record.files import write_json
from asap_eval.runner.earlier_records import journal_of
from asap_eval.runner.provenance import machine

CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361")


def pictures(folder: Path, count: int) -> None:
    """Pictures of noise of 224 pixels, as JPEG files."""
    for at in range(count):
        place = folder / CLASSES[at % len(CLASSES)]
        place.mkdir(parents=True, exist_ok=True)
        noise = Image.effect_noise((224, 224), 20 + at % 100).convert("RGB")
        noise.save(place / f"{at:06d}.jpg")


def run(words: list[str], results: Path, workers: int) -> dict[str, Any]:
    """One job by so many workers."""
    begin = time.perf_counter()
    spread = ["launch=local", f"launch.workers={workers}"]
    assert asap_eval([*words, f"results={results}", *spread]) == 0
    wall = time.perf_counter() - begin
    ((path, record),) = read_records(results)[0]
    assert record.provenance.duration_s is not None
    return {
        "workers": workers,
        "threads": [one["threads"] for one in record.provenance.workers],
        "samples": [one["samples"] for one in record.provenance.workers],
        "seconds": round(record.provenance.duration_s, 2),
        "wall_s": round(wall, 2),
        "journal": str(journal_of(path).path),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--model", default="deit_tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--piece", type=int, default=128)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pictures"
        pictures(data, asked.images)
        words = [f"model={asked.model}", "weights=random", f"data={data}", "cache=off",
                 f"device={asked.device}", f"launch.piece={asked.piece}"]  # fmt: skip
        runs = [run(words, Path(folder) / str(count), count) for count in asked.workers]
        journals = {Path(one.pop("journal")).read_bytes() for one in runs}
    said = {
        "machine": machine(asked.device),
        "model": asked.model,
        "images": asked.images,
        "runs": runs,
        "speedup": round(runs[0]["seconds"] / runs[-1]["seconds"], 3),
        "same_bytes": len(journals) == 1,
    }
    if asked.out:
        write_json(asked.out, said)
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
