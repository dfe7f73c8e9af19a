"""The interface behind which an engine starts workers: submitit, Slurm, Ray or another one.

A new engine is one file beside this one, with a class derived from `Launcher`, its name in
`ENGINES`, and its keys in ``conf/launch/<name>.yaml`` (``kind: <name>``, the keys of `Launch`
that it serves, and its own, which it finds in ``launch.engine``). What it needs from outside is an
extra of the package, imported inside the functions that use it.

An engine starts processes that call ``asap_eval.launch.start.start(queue)`` and nothing else: they
find, claim and write their pieces in the results folder. Its word is never waited for: a job is
done when its record says so. Of what it hears only errors and ends are used, to tell a person.

An engine whose workers see no results folder (Ray on Kubernetes) runs ``work`` of
``asap_eval/launch/worker.py`` in threads of the head, one for each of its actors, with a
``Computer`` that passes ``opened``, ``calibration_of`` and ``rows_of`` (`asap_eval.runner.piece`)
on to the actor: the head's threads alone write.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from asap_eval.errors import unknown
from asap_eval.launch.launch import Launch
from asap_eval.launch.queue import Queue

ENGINES = {
    "local": "asap_eval.launch.local:Local",
    "slurm": "asap_eval.launch.slurm:Slurm",
    "ray": "asap_eval.launch.ray:Ray",
}
"""Engines and where they are; loaded when asked for. ``none`` and ``join`` start nothing."""


class Ended(NamedTuple):
    """A worker that is no more.

    Attributes:
        worker: the engine's name of it, as `Launcher.start` gave it. error: what it said last; None
            = it ended well. log: where it wrote, if it did.
    """

    worker: str
    error: str | None = None
    log: Path | None = None


class Launcher(ABC):
    """Starts workers and hears of those that ended.

    Attributes:
        launch: the keys ``launch.*``.
    """

    shares: ClassVar[bool] = True
    """Whether workers see the results folder; where not, benchmarks can write nothing but rows."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    @abstractmethod
    def check(self, device: str) -> None:
        """Raise an `AsapEvalError` of one line where the engine cannot be used here: it is not
        installed, there is no such scheduler, or ``device`` is not what its workers have. Called
        before anything is opened, also for ``plan=true``."""

    @abstractmethod
    def count(self, device: str) -> int:
        """How many workers there will be: ``launch.workers``, or what fits."""

    @abstractmethod
    def start(self, queue: Queue, count: int) -> Sequence[str]:
        """Start workers on a queue; at once, without waiting for any of them.

        Returns:
            A name for each: what the engine calls it, such as the id of a Slurm task. It is shown
            to a person who did not wait (``launch.wait=false``).

        Raises:
            AsapEvalError: the engine refused, in one line.
        """

    @abstractmethod
    def ended(self) -> list[Ended]:
        """Workers that ended since the last call; must not block."""

    def queued(self) -> bool:
        """Whether workers wait for their turn, so that their silence means nothing."""
        return False

    def done(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what is held; called once every job is done or failed."""

    @abstractmethod
    def stop(self) -> None:
        """Stop all workers that still run; called where the command was interrupted or gives up."""


def launcher_of(launch: Launch) -> Launcher:
    """The engine that ``launch=`` names.

    Raises:
        UnknownNameError: there is none of this name.
    """
    if launch.kind not in ENGINES:
        raise unknown("engine (launch=)", launch.kind, ["none", "join", *ENGINES])
    module, _, name = ENGINES[launch.kind].partition(":")
    engine: type[Launcher] = getattr(importlib.import_module(module), name)
    return engine(launch)
