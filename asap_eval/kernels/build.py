"""The system's C compiler turns the C files here into a library, once per machine and user.

The library is not linked with an OpenMP runtime: its symbols are found in the one that torch has
loaded. A second runtime would bring a second pool of threads that spins on the same cores.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from asap_eval.errors import KernelError
from asap_eval.files.placed import placed
from asap_eval.paths import cache_folder

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.c")))
HEADERS = tuple(sorted(Path(__file__).parent.glob("*.h")))

# No -ffast-math: masked keys are -inf, and sums keep their order.
COMPILE = (
    *("-std=gnu11", "-O3", "-march=native", "-fopenmp", "-fPIC"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
)
LINK = ("-shared",)


def library() -> ctypes.CDLL:
    """The compiled kernel, from the cache or built now.

    Raises:
        KernelError: it cannot be had here; the text is the reason, in a few words.
    """
    if not sys.platform.startswith("linux"):
        raise KernelError(f"no native kernel on {sys.platform}")
    compiler = _compiler()
    version = _run([*compiler, "--version"])
    folder = cache_folder()
    path = folder / f"kernels-{_key(compiler, version)}.so"
    if not path.exists():
        try:
            _build(compiler, folder, path)
        except OSError as error:
            raise KernelError(f"cannot write the cache folder {folder}: {error}") from None
    try:
        # Every symbol is resolved now, so that a missing OpenMP runtime is found here.
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise KernelError(f"the compiled kernel does not load: {error}") from None


def _compiler() -> list[str]:
    """The command of the C compiler. GCC first: its OpenMP calls are those of torch's runtime."""
    given = os.environ.get("CC")
    if given:
        command = shlex.split(given)
        if shutil.which(command[0]) is None:
            raise KernelError(f"C compiler CC={given} not found")
        return command
    for name in ("gcc", "cc", "clang"):
        found = shutil.which(name)
        if found:
            return [found]
    raise KernelError("no C compiler found")


def _run(command: list[str]) -> str:
    """What a command prints; the first line with "error" is the reason if it fails."""
    # The reasons go into records, so they come in one language.
    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"C compiler {command[0]} does not run: {error}") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        first = next((line for line in lines if "error" in line), lines[0] if lines else "")
        said = f": {first}" if first else ""
        raise KernelError(f"C compiler {command[0]} failed (exit {done.returncode}){said}")
    return done.stdout


def _build(compiler: list[str], folder: Path, path: Path) -> None:
    """Compile the library; another process sees all of it or none."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as temporary, placed(path) as linked:
        compiled = [str(Path(temporary, f"{source.stem}.o")) for source in SOURCES]
        for source, into in zip(SOURCES, compiled, strict=True):
            _run([*compiler, *COMPILE, "-c", str(source), "-o", into])
        _run([*compiler, *LINK, *compiled, "-o", str(linked)])
        if not linked.exists():
            raise KernelError(f"C compiler {compiler[0]} wrote no library")


def _key(compiler: list[str], version: str) -> str:
    """Changes with anything that changes the library: -march=native depends on the CPU."""
    texts = [file.read_text() for file in (*SOURCES, *HEADERS)]
    parts = (*texts, *COMPILE, *LINK, *compiler, version, _cpu())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@functools.cache
def _cpu() -> str:
    """Architecture, model and instruction sets of the first core."""
    lines: list[str] = []
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if not line.strip() and lines:
            break
        if line.split("\t")[0].split(":")[0].strip().lower() in {"model name", "flags", "features"}:
            lines.append(line)
    return "\n".join([platform.machine(), *lines])
