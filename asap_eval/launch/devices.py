"""Which GPU a worker has, and how many threads."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from asap_eval.errors import BadValueError
from asap_eval.runner.lock import LOCKS, locked_if_free
from asap_eval.runner.progress import say

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID")
"""Where torchrun and srun say which process of its machine one is."""
RANK = ("RANK", "SLURM_PROCID")
"""Where they say which process of all."""
SIZE = ("WORLD_SIZE", "SLURM_NTASKS")
"""Where they say how many there are."""


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Asked of the driver and not of torch: a process that opened a GPU cannot choose another one.
    """
    if (given := environ.get(VISIBLE)) is not None:
        return [word.strip() for word in given.split(",") if word.strip()]
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return said.split()


def first_of(names: Sequence[str], environ: Mapping[str, str] = os.environ) -> int | None:
    """The first of these variables that is set, as a number; None where none is."""
    return next((int(environ[name]) for name in names if environ.get(name, "").isdigit()), None)


def take_gpu(environ: MutableMapping[str, str] = os.environ) -> None:
    """Choose the GPU of a process that torchrun or srun started, before torch opens one.

    Where every process sees one GPU alone (``--gpus-per-task=1``) it is that one.
    """
    rank, gpus = first_of(LOCAL_RANK, environ), visible_gpus(environ)
    if rank is not None and gpus:
        environ[VISIBLE] = gpus[rank % len(gpus)]


@contextmanager
def own_gpu(results: Path, gpus: Sequence[str]) -> Iterator[str | None]:
    """The first of these GPUs of this machine that no other worker of a results folder has.

    Yields:
        Its name, held until the end of the ``with``; None where there are no GPUs. Where workers of
        other commands have them all it is shared, which is said.
    """
    for gpu in gpus:
        lock = results / LOCKS / "gpus" / f"{socket.gethostname()}-{gpu.replace('/', '-')}.lock"
        with locked_if_free(lock) as mine:
            if mine:
                yield gpu
                return
    if gpus:
        say(f"note: workers of {results} have all GPUs that are visible; one is shared.")
    yield next(iter(gpus), None)


def threads_for(workers: int, environ: Mapping[str, str] = os.environ) -> str | None:
    """``OMP_NUM_THREADS`` of each of so many workers of a machine; None where it is set already."""
    if THREADS in environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return str(max(1, (cores or 1) // max(1, workers)))


def check_device(device: str) -> None:
    """Raise `BadValueError` where a job names one GPU, which several workers would share."""
    if device.startswith("cuda:"):
        raise BadValueError(
            f"device={device} names one GPU, and launch= gives every worker its own: use "
            "device=cuda. CUDA_VISIBLE_DEVICES=0,1 before the command chooses which."
        )
