"""``launch=local``: workers on this machine, one a visible GPU, started by submitit."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.launch.devices import THREADS, check_device, own_gpu, threads_for, visible_gpus
from asap_eval.launch.launch import Launch
from asap_eval.launch.launcher import Ended, Launcher
from asap_eval.launch.queue import Queue
from asap_eval.launch.start import start

YEAR = 365 * 24 * 60
"""Minutes after which submitit would stop a worker."""
NO_WORD = "it was killed, or ended before it could say why"


def submitit_module(kind: str) -> Any:
    """The package submitit; one line where it is missing."""
    try:
        import submitit
    except ImportError as error:
        raise AsapEvalError(
            f"launch={kind} needs submitit: pip install 'asap-eval[launch]'."
        ) from error
    return submitit


def ended_of(jobs: dict[str, Any]) -> list[Ended]:
    """Of submitit's jobs by name those that ended, which are taken out."""
    found = []
    for name, job in list(jobs.items()):
        if job.done():
            del jobs[name]
            log = Path(job.paths.stderr)
            left = job.paths.result_pickle
            said = last_words(left) if left.exists() else NO_WORD
            found.append(Ended(name, said, log if log.exists() else None))
    return found


def last_words(left: Path) -> str | None:
    """What a worker that is over says of its end; None = it ended well.

    Args:
        left: submitit's pickle of what became of it, which holds a traceback where it raised.
    """
    with left.open("rb") as file:
        outcome, body = pickle.load(file)
    if outcome == "success":
        return None
    return re.sub(r"^asap_eval\.[\w.]+: ", "", str(body).strip().splitlines()[-1])


class Local(Launcher):
    """Processes of this machine; each has a GPU of its own, or its share of the cores."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self._jobs: dict[str, Any] = {}
        self._gpus: list[str] = []

    def check(self, device: str) -> None:
        submitit_module("local")
        check_device(device)
        if not device.startswith("cuda"):
            return
        self._gpus = gpus = visible_gpus()
        if gpus and self.launch.workers is not None and self.launch.workers > len(gpus):
            raise BadValueError(
                f"launch.workers={self.launch.workers}, but {len(gpus)} GPUs are visible: two "
                "workers on one GPU would not be faster. Leave launch.workers out."
            )

    def count(self, device: str) -> int:
        if self.launch.workers is not None:
            return self.launch.workers
        return max(1, len(self._gpus)) if device.startswith("cuda") else 1

    def start(self, queue: Queue, count: int) -> Sequence[str]:
        submitit = submitit_module("local")
        folder = queue.results / ".launch" / time.strftime("%Y%m%d-%H%M%S")
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=YEAR)
        # As many threads as if all began together: those of an earlier command may still run.
        with _threads(threads_for(queue.workers)), _errors_to(folder / "controllers.log"):
            for _ in range(count):
                job = executor.submit(_worker, queue, self._gpus)
                self._jobs[str(job.job_id)] = job
        return list(self._jobs)

    def ended(self) -> list[Ended]:
        return ended_of(self._jobs)

    def stop(self) -> None:
        for job in self._jobs.values():
            job.cancel(check=False)


def _worker(queue: Queue, gpus: Sequence[str]) -> None:
    log = submitit_module("local").JobEnvironment().paths.stderr
    with own_gpu(queue.results, gpus) as gpu:
        start(queue, gpu, str(log))


@contextlib.contextmanager
def _errors_to(file: Path) -> Iterator[None]:
    """Standard error of processes started here: submitit's own would print a trace when they are
    stopped."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with file.open("ab") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _threads(count: str | None) -> Iterator[None]:
    """What processes started here inherit: torch reads it when it is imported."""
    if count is not None:
        os.environ[THREADS] = count
    try:
        yield
    finally:
        if count is not None:
            del os.environ[THREADS]
