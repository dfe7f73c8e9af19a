"""One job by every launcher: are its journal and its record those of one process?

    python benchmarks/same_bytes.py
    python benchmarks/same_bytes.py --kinds video --launchers local ray

An image job, a question job and a video job, each with a budget and the unpruned model beside it,
by ``launch=none`` and then by two workers of every launcher that is installed here (Slurm: a node
of its own on this machine). Journals are held against each other by ``cmp``, records but for who
computed them, when, and where to. Ends with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from asap_eval.record.files import write_json

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import one_node_slurm  # noqa: E402

LAUNCHERS = ("local", "slurm", "ray", "join")
OTHERWISE = ("command", "started", "duration_s", "machine", "workers")
"""What of the provenance may differ between one process and several."""


@dataclass(frozen=True)
class Kind:
    """A job: the words of its command line, and samples of a piece."""

    words: Sequence[str]
    piece: int


def image(_: Path) -> Kind:
    words = ["model=digits_vit", "data=example", "method=mass", "budget=macs", "target=-35",
             "budget.samples=16", "limit=96", "batch_size=16"]  # fmt: skip
    return Kind(words, 32)


def question(folder: Path) -> Kind:
    asked([sys.executable, str(ROOT / "examples/vlm_questions.py"), "--out", str(folder)])
    words = ["model=llava_tiny", f"data={folder}", "bench=vlm", "tasks=[gqa,pope,textvqa_val]",
             "method=visionzip", "budget=tokens", "target=24", "budget.samples=4", "limit=8",
             "batch_size=2", "bench.new_tokens=4"]  # fmt: skip
    return Kind(words, 4)


def video(folder: Path) -> Kind:
    asked([sys.executable, str(ROOT / "examples/moving_shapes.py"), "--out", str(folder),
           "--train", "4", "--val", "4"])  # fmt: skip
    common = ["model=digits_vit", f"data={folder}", "bench=kinetics", "batch_size=4"]
    trained = asked([sys.executable, "-m", "asap_eval", *common, "stage=train", "train.epochs=3",
                     "device=cpu", f"results={folder / 'trained'}"])  # fmt: skip
    heads = sorted((folder / "trained" / "heads").glob("*.safetensors"))
    assert len(heads) == 1, trained
    words = [*common, f"bench.head={heads[0]}", "method=mass", "budget=macs", "target=-35",
             "budget.samples=8", "limit=24"]  # fmt: skip
    return Kind(words, 8)


KINDS = {"image": image, "question": question, "video": video}


def asked(words: Sequence[str], **variables: str) -> str:
    """What a command printed; the script ends with its message where it fails."""
    env = {**os.environ, **variables}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\nended with {done.returncode}:\n{done.stderr}{done.stdout}")
    return done.stdout + done.stderr


def absent(launcher: str) -> str:
    """What a launcher lacks on this machine, in words; "" = nothing."""
    package = {"local": "submitit", "slurm": "submitit", "ray": "ray"}.get(launcher)
    if package and importlib.util.find_spec(package) is None:
        return f"no package {package} here"
    return one_node_slurm.absent() if launcher == "slurm" else ""


@contextlib.contextmanager
def cluster(launcher: str) -> Iterator[dict[str, str]]:
    """The variables with which a launcher finds what starts its workers."""
    if launcher != "slurm":
        yield {}
        return
    with one_node_slurm.one_node() as variables:
        yield variables


def line_of(kind: Kind, launcher: str, results: Path) -> list[str]:
    """The command that does a job by two workers, or by one process (``none``)."""
    words = [*kind.words, "device=cpu", f"results={results}", f"launch={launcher}"]
    if launcher == "none":
        return [sys.executable, "-m", "asap_eval", *words]
    words.append(f"launch.piece={kind.piece}")
    if launcher == "join":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node=2", "-m", "asap_eval", *words]  # fmt: skip
    return [sys.executable, "-m", "asap_eval", *words, "launch.workers=2"]


def plain(path: Path) -> dict[str, Any]:
    """A record less what may differ: who computed it, when, and into which folder."""
    record: dict[str, Any] = json.loads(path.read_text())
    said = record["provenance"]
    for name in OTHERWISE:
        said.pop(name, None)
    said["config"].pop("results")
    said["config"]["paths"].pop("results")
    return record


def apart(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two records differ, with what stands there."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [a for k in keys for a in apart(one.get(k), other.get(k), f"{at}.{k}".strip("."))]
    return [] if one == other else [f"{at}: {one!r:.80} | {other!r:.80}"]


def compared(one: Path, other: Path) -> dict[str, Any]:
    """Which files of two results folders differ, and who computed those of the second."""
    names = [sorted(p.name for p in folder.glob("[!.]*") if p.is_file()) for folder in (one, other)]
    assert names[0], one
    journals = [name for name in names[0] if name.endswith(".jsonl")]
    records = [name for name in names[0] if name.endswith(".json")]
    assert len(journals) == len(records) == 2, names  # the unpruned model's and the method's
    differ = [name for name in names[0] if name not in names[1]]
    for name in journals:
        if name not in differ:
            same = subprocess.run(["cmp", str(one / name), str(other / name)], capture_output=True)
            differ += [name] if same.returncode else []
    said = [json.loads((other / name).read_text()) for name in records if name not in differ]
    for name in records:
        if name not in differ:
            differ += [f"{name}: {at}" for at in apart(plain(one / name), plain(other / name))]
    return {
        "journals_equal": not set(differ) & set(journals),
        "records_equal": names[0] == names[1] and not set(differ) - set(journals),
        "done": len(said) == 2 and all(record["status"] == "done" for record in said),
        "left": [str(p.name) for p in other.glob(".*.parts")],
        "workers": [[w["samples"] for w in r["provenance"]["workers"] or []] for r in said],
        "differ": differ,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--launchers", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS))
    parser.add_argument("--out", type=Path, help="JSON file")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # bits depend on it, so all have the same
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    found = []
    with tempfile.TemporaryDirectory() as name:
        for kind in given.kinds:
            folder = Path(name) / kind
            job = KINDS[kind](folder / "data")
            asked(line_of(job, "none", folder / "none"))
            for launcher in given.launchers:
                row: dict[str, Any] = {
                    "kind": kind,
                    "launcher": launcher,
                    "absent": absent(launcher),
                }
                if not row["absent"]:
                    begin = time.perf_counter()
                    with cluster(launcher) as variables:
                        asked(line_of(job, launcher, folder / launcher), **variables)
                    row["wall_s"] = round(time.perf_counter() - begin, 1)
                    row |= compared(folder / "none", folder / launcher)
                found.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    if given.out:
        write_json(given.out, {"jobs": found})
    shown(found)
    sys.exit(any(not right(row) for row in found if not row["absent"]))


def right(row: dict[str, Any]) -> bool:
    return bool(row["journals_equal"] and row["records_equal"] and row["done"] and not row["left"])


def shown(found: Sequence[dict[str, Any]]) -> None:
    table = Table("job", "launch=", "journals (cmp)", "records", "samples of each worker", "s")
    for row in found:
        if row["absent"]:
            table.add_row(row["kind"], row["launcher"], f"skipped: {row['absent']}", "", "", "")
            continue
        words = [
            "equal" if row[f"{which}_equal"] else "DIFFER" for which in ("journals", "records")
        ]
        if not row["done"] or row["left"]:
            words[1] += ", not done"
        table.add_row(row["kind"], row["launcher"], *words,
                      " | ".join("+".join(map(str, each)) for each in row["workers"]),
                      str(row["wall_s"]))  # fmt: skip
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
