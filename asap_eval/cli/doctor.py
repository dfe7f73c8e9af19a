"""``asap-eval doctor``: this machine and installation, as text to paste into an issue.

Nothing is changed; the one request to the network asks whether the hub answers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asap_eval.cli.words import command
from asap_eval.paths import PACKAGE, cache_folder, conf_dir

SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT")
"""Variables that decide whether and where the hub is asked."""
PATIENCE = 5
"""Seconds that the hub has to answer."""


@dataclass
class Asked:
    """What is looked at."""

    results: Path = Path("results")  # folder of records, where runs lock their jobs


def main(argv: Sequence[str]) -> int:
    """Print what is found; nothing of it is an error."""
    return command(argv, Asked, "doctor", str(__doc__), _told)


def _told(asked: Asked) -> None:
    for head, text in _found(asked):
        print(f"{head + ':':<12}{text}")


def _found(asked: Asked) -> Iterator[tuple[str, str]]:
    import torch

    from asap_eval import __version__
    from asap_eval.kernels import attention_kernel
    from asap_eval.runner.provenance import git_state, machine, packages

    commit, dirty = git_state()
    code = f"commit {commit}{', changed' if dirty else ''}" if commit else "installed"
    yield "asap-eval", f"{__version__}, {code}, {PACKAGE}"
    yield "packages", ", ".join(f"{name} {version}" for name, version in packages().items())
    facts = machine("cpu")
    yield "machine", ", ".join(f"{key} {value}" for key, value in facts.items())
    yield "CUDA", f"{torch.version.cuda or 'not in this torch'}"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(count):
        gpu = machine(f"cuda:{number}")
        facts = {key: value for key, value in gpu.items() if key.startswith(("gpu", "driver"))}
        yield f"GPU {number}", ", ".join(str(value) for value in facts.values())
    if not count:
        yield "GPU", "none"
    yield "compiler", _compiler()
    yield "kernel", f"attention on a CPU in fp32: {attention_kernel('cpu', torch.float32)}"
    yield "conf", str(conf_dir())
    yield "cache", _folder(cache_folder())
    yield "hub cache", _folder(_hub_cache())
    given = [f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ]
    yield "hub", f"{_hub()}{'; ' if given else ''}{', '.join(given)}"
    yield "locks", _locks(asked.results)


def _compiler() -> str:
    given = os.environ.get("CC")
    found = [path for name in ("gcc", "cc", "clang") if (path := shutil.which(name))]
    return f"CC={given}" if given else ", ".join(found) or "none"


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _folder(path: Path) -> str:
    """A folder, and whether it can be written."""
    place = next(one for one in (path, *path.parents) if one.exists())
    state = "there" if place == path else "not there yet"
    return f"{path}, {state}, {'can' if os.access(place, os.W_OK) else 'cannot'} be written"


def _hub() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "offline by choice"
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=PATIENCE) as answer:
            return f"{constants.ENDPOINT} answers ({answer.status})"
    except (urllib.error.URLError, OSError, ValueError) as error:
        return f"{constants.ENDPOINT} does not answer: {error}"


def _locks(results: Path) -> str:
    """Whether two processes that share the folder of records would see each other."""
    from filelock import FileLock, Timeout

    place = next(one for one in (results, *results.absolute().parents) if one.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            path = Path(folder) / "try.lock"
            with FileLock(path):
                try:
                    FileLock(path).acquire(timeout=0)
                except Timeout:
                    return f"hold in {place}"
                return f"do not hold in {place}: two processes could run one job"
    except OSError as error:
        return f"cannot be tried in {place}: {error.strerror}"
