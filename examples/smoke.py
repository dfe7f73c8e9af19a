"""Every experiment that can run on this machine, on a few samples: does the whole chain hold?

    python examples/smoke.py --out build/smoke --shared ../shared
    python examples/smoke.py --out build/smoke table1 fig7

All of `CASES` run, one after the other, whatever becomes of the others; the log of each lies in the
folder. The end is a summary, and exit code 1 where one failed. The numbers mean nothing: too few
samples, and where the shared data is absent noise instead of images and random weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]

WALK = "model=deit_tiny data={images} weights={weights} limit=4 sample=spread batch_size=4"
TINY = f"{WALK} budget.samples=4"
CLIPS = "model=digits_vit data={clips} limit=8 sample=spread budget.samples=4"
ASKED = "data={questions} limit=2 batch_size=2 bench.new_tokens=4"
TIMED = "data={questions} limit=2 bench.warmup=1 bench.new_tokens=4"

CASES = {
    "table1": TINY,
    "table2": f"{TINY} method.tau=[1.4] seed=[0]",
    "table3": f"{CLIPS} bench.head={{head}}",
    "table4": f"model=llava_tiny {TIMED}",
    "table5": f"model=llava_tiny {ASKED}",
    "table6": f"model=llava_next_tiny {ASKED}",
    "table7": f"{TINY} method.tau=[1.4]",
    "table8": f"model=llava_next_tiny {TIMED}",
    "table9": f"model=llava_next_tiny {TIMED}",
    "table10": f"model=llava_tiny {ASKED}",
    "table11": f"model=llava_next_tiny {ASKED}",
    "scaling_law": f"model=llava_tiny {ASKED} tasks=[pope]",
    "zoo_llava15": f"model=llava_tiny_336 {ASKED} tasks=[pope] seed=[0]",
    "zoo_llava_next": f"model=llava_next_tiny {ASKED} tasks=[pope] seed=[0]",
    "fig6": f"{WALK} k=[2] method.tau=[1.4,1.7]",
    "fig7": WALK,
    "fig8": f"{WALK} k=[2] method.tau=[1.4,1.7]",
    "alpha": TINY,
    "readings": f"{TINY} method=asap",
    "controls": TINY,
    "spearman": WALK,
    "zoo_image": f"{TINY} target=[-35]",
    "claims": WALK,
    "keepmaps": TINY,
    "saliency": "model=deit_tiny data={photographs} weights={weights} limit=4 budget.samples=4",
}
"""Experiments and what makes them small; words in braces are made or found by `inputs`."""


class Skipped(Exception):
    """Why a case cannot run here."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="%(default)s")
    parser.add_argument("names", nargs="*", help="of the cases to run; all where none is given")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in CASES]:
        parser.error(f"no case {', '.join(unknown)}: choose of {', '.join(CASES)}")
    args.out.mkdir(parents=True, exist_ok=True)
    found: list[tuple[str, str, float]] = []
    for name in args.names or CASES:
        print(f"{name} ...", flush=True)
        start = time.perf_counter()
        found.append((name, case(name, args.out, args.shared), time.perf_counter() - start))
    print("\n" + "\n".join(f"{name:10} {took:6.0f} s  {end}" for name, end, took in found))
    return int(any(end.startswith("FAILED") for _, end, _ in found))


def case(name: str, out: Path, shared: Path) -> str:
    """Run one experiment and its table; how it ended."""
    log = out / f"{name}.log"
    log.unlink(missing_ok=True)
    try:
        if not (ROOT / "conf" / "experiment" / f"{name}.yaml").is_file():
            raise Skipped("there is no such experiment")
        words = [filled(word, out, shared, log) for word in CASES[name].split()]
        results = out / "results" / name
        run([f"experiment={name}", *words, f"results={results}"], log)
        run(["report", str(results), "--experiment", name], log)
    except Skipped as why:
        return f"skipped: {why}"
    except subprocess.CalledProcessError as error:
        return f"FAILED with {error.returncode}: see {log}"
    return "ok"


def run(words: list[str], log: Path) -> str:
    """A command of this package; its last line. All it says goes to the log."""
    return called([sys.executable, "-m", "asap_eval", *words], log)


def called(command: list[str], log: Path) -> str:
    with log.open("a") as file:
        print("+", *command[1:], file=file, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, text=True, check=False)
        file.write(done.stdout)
    done.check_returncode()
    return (done.stdout.strip().splitlines() or [""])[-1]


def filled(word: str, out: Path, shared: Path, log: Path) -> str:
    """A word of a case with the paths it names."""
    for name, path in INPUTS.items():
        if f"{{{name}}}" in word:
            word = word.replace(f"{{{name}}}", path(out, shared, log))
    return word


def images(out: Path, shared: Path, log: Path) -> str:
    """Real images where they are, else noise in folders of the same names."""
    real = shared / "data" / "imagenet"
    if real.is_dir():
        return str(real)
    sys.path.insert(0, str(ROOT / "tests"))
    from pictures import picture_folder

    folder = out / "noise"
    return str(folder if folder.is_dir() else picture_folder(folder))


def weights(out: Path, shared: Path, log: Path) -> str:
    real = shared / "data" / "weights" / "deit_tiny_patch16_224.safetensors"
    return str(real) if real.is_file() else "random"


def photographs(out: Path, shared: Path, log: Path) -> str:
    real = shared / "data" / "ecssd"
    if not real.is_dir():
        raise Skipped(f"needs photographs with masks at {real}")
    return str(real)


def clips(out: Path, shared: Path, log: Path) -> str:
    folder = out / "clips"
    if not (folder / "val").is_dir():
        made = ["--out", str(folder), "--train", "2", "--val", "2"]
        called([sys.executable, str(ROOT / "examples" / "moving_shapes.py"), *made], log)
    return str(folder)


def head(out: Path, shared: Path, log: Path) -> str:
    """A head trained on the clips for two rounds."""
    words = ["stage=train", "model=digits_vit", "bench=kinetics", "train.epochs=2"]
    return run([*words, f"data={clips(out, shared, log)}", f"results={out}/head"], log)


def questions(out: Path, shared: Path, log: Path) -> str:
    maker, folder = ROOT / "examples" / "vlm_questions.py", out / "questions"
    if not maker.is_file():
        raise Skipped(f"needs {maker.name}")
    if not folder.is_dir():
        called([sys.executable, str(maker), "--out", str(folder)], log)
    return str(folder)


INPUTS: dict[str, Callable[[Path, Path, Path], str]] = {
    function.__name__: function
    for function in (images, weights, photographs, clips, head, questions)
}
"""What words in braces stand for."""


if __name__ == "__main__":
    sys.exit(main())
