"""What a command asks its workers for: the jobs in order, and how they are opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asap_eval.launch.launch import Launch
from asap_eval.runner.piece import Opening


@dataclass(frozen=True)
class Queued:
    """One job of a queue.

    Attributes:
        stem: of its record in the results folder. baseline: of the unpruned model's record that it
            is compared with, None = it is compared with none. times: whether its speed is measured.
    """

    stem: str
    baseline: str | None = None
    times: bool = False


@dataclass(frozen=True)
class Queue:
    """The list that every worker goes down; travels to it (pickled).

    Attributes:
        results: the folder, absolute. jobs: baselines before what is compared with them.
        opening: how jobs are opened. launch: ``launch.*``. folder: where the command was given:
            relative paths of a job start there. workers: how many there will be on one machine,
            for their threads; 0 = one a machine. beacon: a lock that the head holds while it
            lives, None = there is no head. times: whether these workers may measure speed; where
            not, the end of a job with speed is left to others (``launch.exclusive``).
    """

    results: Path
    jobs: tuple[Queued, ...]
    opening: Opening
    launch: Launch
    folder: Path
    workers: int = 0
    beacon: Path | None = None
    times: bool = True
