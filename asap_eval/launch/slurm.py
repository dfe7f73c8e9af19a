"""``launch=slurm``: workers as one job array of Slurm, through submitit.

Slurm signals a task that is pre-empted or out of time before it kills it; submitit then queues the
task again, and its piece is taken up after the last batch that was written. Where Slurm keeps no
accounting submitit never hears of a task that was killed, so that ``squeue`` is asked here instead.
"""

from __future__ import annotations

import contextlib
import io
import math
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from asap_eval.errors import BadValueError, SetUpError, message
from asap_eval.launch.devices import THREADS
from asap_eval.launch.launch import Launch, own_keys
from asap_eval.launch.launcher import Ended, Launcher
from asap_eval.launch.local import last_words, submitit_module
from asap_eval.launch.queue import Queue
from asap_eval.launch.start import start

PROGRAMS = ("sbatch", "srun", "squeue", "scancel")
TIMES_OUT = 100
"""How often a task that is out of time queues again; one that is pre-empted always does."""
EVERY = 30.0
"""Seconds between two questions to the scheduler, which serves a whole cluster."""
NO_WORD = "Slurm ended it before it could say why (killed, cancelled, or out of memory)"


@dataclass(frozen=True)
class Wanted:
    """What Slurm is asked for; None = what the cluster does when it is not told.

    Attributes:
        partition, account, qos, constraint: as sbatch has them. gpus, cpus, memory_gb: of a worker;
            gpus None = 1, on a CPU none; cpus None = the processes that load samples, and one.
        hours: of a worker until Slurm stops it. exclusive: whether speed is measured by a job of
            its own that has a whole node. setup: lines of the script before the worker starts.
            extra: other options of sbatch.
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
    extra: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("gpus", 0), ("cpus", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise BadValueError(f"launch.{name}={value}: give a number >= {least}.")
        for name in ("memory_gb", "hours"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise BadValueError(f"launch.{name}={value:g}: give a number > 0.")

    def parameters(self, gpus: int, loaders: int) -> dict[str, Any]:
        """As submitit calls them.

        Args:
            gpus: of a worker, where ``launch.gpus`` says nothing. loaders: its processes that load.
        """
        gpus = gpus if self.gpus is None else self.gpus
        cpus = self.cpus or loaders + 1
        threads = f"export {THREADS}=${{{THREADS}:-{cpus}}}"
        given = {
            "name": "asap-eval",
            "timeout_min": math.ceil(60 * self.hours),
            "mem_gb": self.memory_gb,
            "gpus_per_node": gpus or None,
            "cpus_per_task": cpus,
            "stderr_to_stdout": True,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": self.constraint,
            "slurm_setup": [threads, *self.setup],
            # Since Slurm 22.05 srun takes one CPU of the task's where it is not told.
            "slurm_srun_args": [f"--cpus-per-task={cpus}"],
            "slurm_additional_parameters": dict(self.extra),
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Task:
    """What a task of the array runs; submitit pickles it, and asks it for what to queue again."""

    queue: Queue

    def __call__(self) -> None:
        log = submitit_module("slurm").JobEnvironment().paths.stdout
        start(self.queue, log=str(log))

    def checkpoint(self) -> Any:
        return submitit_module("slurm").helpers.DelayedSubmission(self)


class Slurm(Launcher):
    """Submits the array, and asks now and then what of it is still there."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self.wanted = own_keys(Wanted, launch)
        self._gpus = 0
        self._jobs: dict[str, Any] = {}
        self._states: dict[str, str] = {}
        self._asked = -math.inf

    def check(self, device: str) -> None:
        submitit_module("slurm")
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise SetUpError(
                f"launch=slurm: there is no Slurm here (no {', '.join(missing)} on the path). Give "
                "the command on a login node of the cluster, or launch=local for this machine."
            )

    def count(self, device: str) -> int:
        self._gpus = int(device.startswith("cuda"))
        return self.launch.workers or 1

    def start(self, queue: Queue, count: int) -> Sequence[str]:
        apart = self.wanted.exclusive and any(job.times for job in queue.jobs)
        self._submit(replace(queue, times=not apart), count)
        if apart:
            ids = ":".join({name.partition("_")[0] for name in self._jobs})
            self._submit(queue, 1, exclusive=True, dependency=f"afterany:{ids}")
        self._asked = time.monotonic()
        return list(self._jobs)

    def executor(self, queue: Queue, count: int, **more: Any) -> Any:
        """submitit's, with everything that Slurm is asked for.

        Args:
            more: further options of sbatch.
        """
        executor = submitit_module("slurm").AutoExecutor(
            queue.results / ".launch" / "%j", cluster="slurm", slurm_max_num_timeout=TIMES_OUT
        )
        executor.update_parameters(
            **self.wanted.parameters(self._gpus, queue.opening.loaders),
            **{f"slurm_{name}": value for name, value in more.items()},
            slurm_array_parallelism=count,
        )
        return executor

    def ended(self) -> list[Ended]:
        self._ask()
        found = []
        for name, job in list(self._jobs.items()):
            left = job.paths.result_pickle
            over = left.exists()
            if over or not self._states.get(name, "PENDING"):
                log = job.paths.stdout
                said = last_words(left) if over else NO_WORD
                found.append(Ended(name, said, log if log.exists() else None))
                del self._jobs[name]
        return found

    def queued(self) -> bool:
        self._ask()
        return any(self._states.get(name, "PENDING") == "PENDING" for name in self._jobs)

    def done(self) -> None:
        self._asked = -math.inf
        self._ask()
        for name, job in self._jobs.items():
            if self._states.get(name) == "PENDING":  # it would begin, see nothing to do and leave
                job.cancel(check=False)

    def stop(self) -> None:
        for job in self._jobs.values():
            job.cancel(check=False)

    def _submit(self, queue: Queue, count: int, **more: Any) -> None:
        """Submit so many workers.

        Raises:
            SetUpError: sbatch refused; says what it said.
        """
        executor = self.executor(queue, count, **more)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), executor.batch():  # it prints what sbatch said
                jobs = [executor.submit(Task(queue)) for _ in range(count)]
        except RuntimeError as error:
            raise SetUpError(f"launch=slurm: {message(error)}") from error
        self._jobs.update({job.job_id: job for job in jobs})

    def _ask(self) -> None:
        """What Slurm says of the tasks, asked at most every so often; "" = it knows it no more."""
        if not self._jobs or time.monotonic() - self._asked < EVERY:
            return
        self._asked = time.monotonic()
        words = ["squeue", "--me", "--noheader", "--array", "--format=%i %T"]
        asked = subprocess.run(words, capture_output=True, text=True)
        if asked.returncode == 0:  # a scheduler too busy to answer says nothing of a task
            known = dict(line.split(maxsplit=1) for line in asked.stdout.splitlines() if line)
            self._states = {name: known.get(name, "") for name in self._jobs}
