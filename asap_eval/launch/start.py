"""Where an engine's process begins: it becomes a worker."""

from __future__ import annotations

import os
from contextlib import suppress

from asap_eval.launch.devices import VISIBLE
from asap_eval.launch.queue import Queue
from asap_eval.launch.worker import work


def start(queue: Queue, gpu: str | None = None, log: str = "") -> None:
    """Be a worker of a queue, until nothing is left of it.

    Args:
        gpu: as ``CUDA_VISIBLE_DEVICES`` names it; None = what the engine has chosen. log: file of
            what this process says.

    Raises:
        AsapEvalError: a job cannot be opened on this machine.
    """
    if gpu is not None:
        os.environ[VISIBLE] = gpu
    with suppress(FileNotFoundError):  # a node may lack it: jobs with absolute paths need it not
        os.chdir(queue.folder)
    work(queue, log=log)
