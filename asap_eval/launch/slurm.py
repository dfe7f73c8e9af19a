"""``launch=slurm``: workers as one job array of Slurm, through submitit.

Slurm signals a task that is pre-empted or out of time before it kills it; submitit then queues the
task again, and its piece is taken up after the last batch that was written. Where Slurm keeps no
accounting submitit never hears of a task that was killed, so that `squeue` is asked here instead.
"""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asap_eval.errors import BadValueError, SetUpError, message
from asap_eval.launch.launch import Launch
from asap_eval.launch.launcher import Ended, Launcher
from asap_eval.launch.queue import Queue
from asap_eval.launch.start import start
from asap_eval.options import checked, options

PROGRAMS = ("sbatch", "srun", "squeue", "scancel")
TIMES_OUT = 100
"""How often a task that is out of time queues again; pre-empted it always does."""
EVERY = 30.0
"""Seconds between two questions to the scheduler, which serves a whole cluster."""


@dataclass(frozen=True)
class Wanted:
    """What Slurm is asked for; None = what the cluster does when it is not told.

    Attributes:
        partition, account, qos, constraint: as sbatch has them. gpus, cpus, memory_gb: of a worker.
        hours: of a worker until Slurm stops it. exclusive: whether speed is measured by a job of
            its own with a whole node. setup: lines of the script before the worker starts. extra:
            other options of sbatch.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    hours: float = 1.0
    exclusive: bool = False
    setup: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("gpus", 0), ("cpus", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise BadValueError(f"launch.{name}={value}: give a number >= {least}.")
        for name in ("memory_gb", "hours"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise BadValueError(f"launch.{name}={value:g}: give a number > 0.")

    def parameters(self, queue: Queue, count: int) -> dict[str, Any]:
        """As submitit calls them."""
        gpus = self.gpus if self.gpus is not None else 1
        cpus = self.cpus or queue.opening.loaders + 1
        given = {
            "name": "asap-eval",
            "timeout_min": math.ceil(60 * self.hours),
            "mem_gb": self.memory_gb,
            "gpus_per_node": gpus,
            "cpus_per_task": cpus,
            "stderr_to_stdout": True,
            # Since Slurm 22.05 srun takes one CPU of them where it is not told.
            "slurm_srun_args": [f"--cpus-per-task={cpus}"],
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": self.constraint,
            "slurm_array_parallelism": count,
            "slurm_setup": list(self.setup) or None,
            "slurm_additional_parameters": dict(self.extra) or None,
        }
        return {key: value for key, value in given.items() if value not in (None, 0)}


@dataclass(frozen=True)
class Task:
    """What a task of the array runs; submitit pickles it, and asks it for what to queue again."""

    queue: Queue

    def __call__(self) -> None:
        start(self.queue)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Slurm(Launcher):
    """Submits the array, and asks now and then what of it is still there."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self.wanted = wanted_of(launch.engine)
        self._jobs: dict[str, Any] = {}
        self._asked = time.monotonic()

    def check(self, device: str) -> None:
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise SetUpError(
                f"launch=slurm: there is no Slurm here (no {', '.join(missing)} on the path). Give "
                "the command on a login node of the cluster, or launch=local for this machine."
            )

    def count(self, device: str) -> int:
        return self.launch.workers or 1

    def start(self, queue: Queue, count: int) -> Sequence[str]:
        executor = self.executor(queue, count)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), executor.batch():  # it prints what sbatch said
                jobs = [executor.submit(Task(queue)) for _ in range(count)]
        except RuntimeError as error:
            raise SetUpError(f"launch=slurm: {message(error)}") from error
        self._jobs.update({job.job_id: job for job in jobs})
        return [job.job_id for job in jobs]

    def ended(self) -> list[Ended]:
        gone = self._gone()
        found = []
        for name, job in list(self._jobs.items()):
            if job.paths.result_pickle.exists():
                found.append(Ended(name, _said(job), job.paths.stdout))
            elif name in gone:
                why = "Slurm ended it without a word (killed, cancelled, or out of memory)"
                found.append(Ended(name, why, job.paths.stdout))
        for worker in found:
            del self._jobs[worker.worker]
        return found

    def stop(self) -> None:
        for job in self._jobs.values():
            job.cancel(check=False)

    def executor(self, queue: Queue, count: int) -> Any:
        """submitit's, with everything that Slurm is asked for.

        Raises:
            SetUpError: submitit is not installed.
        """
        try:
            import submitit
        except ImportError as error:
            raise SetUpError(
                "launch=slurm needs submitit: pip install 'asap-eval[launch]'."
            ) from error
        executor = submitit.AutoExecutor(
            queue.results / ".launch" / "%j", cluster="slurm", slurm_max_num_timeout=TIMES_OUT
        )
        executor.update_parameters(**self.wanted.parameters(queue, count))
        return executor

    def _gone(self) -> set[str]:
        """Tasks that Slurm no longer knows as waiting or running; asked at most every so often."""
        if not self._jobs or time.monotonic() - self._asked < EVERY:
            return set()
        self._asked = time.monotonic()
        words = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        asked = subprocess.run(words, capture_output=True, text=True)
        # A scheduler that is too busy to answer says nothing of a task.
        return set() if asked.returncode else set(self._jobs) - set(asked.stdout.split())


def wanted_of(engine: Mapping[str, Any]) -> Wanted:
    """The keys ``launch.*`` that Slurm alone knows.

    Raises:
        AsapEvalError: a value of the wrong type.
    """
    return Wanted(
        **{
            name: checked(f"launch.{name}", engine[name], hint)
            for name, hint, _ in options(Wanted)
            if name in engine
        }
    )


def _said(job: Any) -> str | None:
    """What a task that ended left: None, or the last line of its traceback."""
    with job.paths.result_pickle.open("rb") as file:
        outcome, body = pickle.load(file)
    return None if outcome == "success" else str(body).strip().splitlines()[-1]
