"""A job whose command, or whose actors, are killed at five random moments: what is lost?

    python benchmarks/kills.py --who head actor

A method whose batches take a while says which batch it is at. ``head``: the command of
``launch=local`` gets SIGKILL at a random moment and is given again, five times; its workers go on.
``actor``: five times a Ray actor gets it while it is at a batch. At the end the files have to be
those of one process, and of the batches no more may have been begun twice than were in flight at a
kill. (Workers, also in the middle of a merge: ``tests/test_launch.py``.)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import same_bytes

METHOD = '''
import os, pathlib, time
from dataclasses import dataclass
from asap_eval.method import Card, Need, register
from asap_eval.scorer import Scorer

@register("slow", Card(paper="none", licence="Apache-2.0", training="training-free", knob="k",
                       knob_meaning="share of patches kept", fixed_count=True))
@dataclass
class Slow(Scorer):
    """Keeps the patches with the longest keys, takes its time, and says at which batch it is."""

    needs = frozenset({Need.KEYS})

    def score(self, view, state):
        with (pathlib.Path(os.environ["BEATS"]) / str(os.getpid())).open("a") as file:
            file.write(state.batch.id_of(0) + "\\n")
        time.sleep(float(os.environ["SECONDS_A_BATCH"]))
        return view.keys.norm(dim=-1).mean(1)[:, view.prefix :]
'''
LAUNCHERS = {"head": "local", "actor": "ray"}
WORDS = ["model=digits_vit", "data=example", "method=slow", "k=0.5", "limit=192", "batch_size=4"]
PIECE = 16
SECONDS = 2.0
"""What a batch takes at least."""
LONGEST = 25.0
"""Seconds after its start in which a head is killed."""


def job(plugin: Path) -> same_bytes.Kind:
    return same_bytes.Kind([*WORDS, f"plugins={plugin}"], PIECE)


def kill_heads(line: list[str], env: dict[str, str], times: int) -> list[float]:
    """Seconds after its start at which each command was killed."""
    moments = []
    for _ in range(times):
        after = random.uniform(0, LONGEST)
        process = subprocess.Popen(
            line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            moments.append(round(after, 1))
    same_bytes.asked(line, **env)
    return moments


def kill_actors(line: list[str], env: dict[str, str], times: int) -> list[float]:
    """Seconds into its batch at which each actor was killed."""
    words = [*line, f"launch.restarts={times + 1}"]
    beats, moments, last = Path(env["BEATS"]), [], time.time()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None and len(moments) < times:
            new = [path for path in beats.iterdir() if path.stat().st_mtime > last]
            if not new:
                time.sleep(0.02)
                continue
            after = random.uniform(0, 0.9 * SECONDS)
            time.sleep(after)
            os.kill(int(random.choice(new).name), signal.SIGKILL)
            last = time.time()
            moments.append(round(after, 2))
        if process.wait():
            errors.seek(0)
            sys.exit(errors.read())
    return moments


def tried(who: str, folder: Path, alone: Path, times: int) -> dict[str, Any]:
    """A job with its kills: when, which batches began more than once, and whether the files are
    those of one process."""
    beats = folder / f"{who}-beats"
    beats.mkdir()
    env = {**os.environ, "BEATS": str(beats), "SECONDS_A_BATCH": str(SECONDS)}
    line = same_bytes.line_of(job(folder / "slow.py"), LAUNCHERS[who], folder / who)
    moments = (kill_heads if who == "head" else kill_actors)(line, env, times)
    begun = Counter("".join(path.read_text() for path in beats.iterdir()).split())
    return {
        "who": who,
        "killed_after_s": moments,
        "batches": len(begun),
        "begun_again": begun.total() - len(begun),
        **same_bytes.compared(alone, folder / who),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--who", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS))
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wrong = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "slow.py").write_text(METHOD)
        (folder / "beats").mkdir()
        line = same_bytes.line_of(job(folder / "slow.py"), "none", folder / "alone")
        same_bytes.asked(line, BEATS=str(folder / "beats"), SECONDS_A_BATCH="0")
        for who in given.who:
            if same_bytes.absent(LAUNCHERS[who]):
                print(f"{who}: skipped, {same_bytes.absent(LAUNCHERS[who])}")
                continue
            found = tried(who, folder, folder / "alone", given.times)
            print(json.dumps(found, indent=1), flush=True)
            allowed = given.times if who == "actor" else 0
            wrong |= not same_bytes.right(found) or found["begun_again"] > allowed
            wrong |= len(found["killed_after_s"]) < given.times
    sys.exit(wrong)


if __name__ == "__main__":
    main()
