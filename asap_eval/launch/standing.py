"""How far the jobs of a results folder are: read from the disk alone, by whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from asap_eval.errors import RecordError
from asap_eval.launch.parts import Failure, Parts, Worker
from asap_eval.record import SAMPLES_SUFFIX, RunRecord, read_record

State = Literal["running", "failed", "stopped"]
"""Of a job without a finished record: somebody is at it; it ended with an error; nobody is."""


@dataclass(frozen=True)
class Standing:
    """One job that is not done.

    Attributes:
        stem: of its record. state: see `State`. total: samples. done: those whose rows are written.
        alive: workers at it. ended: those that are gone, with what they said. failure: what ended
            the job, None = nothing did.
    """

    stem: str
    state: State
    total: int
    done: int
    alive: tuple[Worker, ...] = ()
    ended: tuple[Worker, ...] = ()
    failure: Failure | None = None

    @property
    def rate(self) -> float | None:
        """Samples a second of the workers that are alive; None before their first batch."""
        rates = [w.samples / (w.latest - w.began) for w in self.alive if w.latest > w.began]
        return sum(rates) or None

    @property
    def left(self) -> float | None:
        """Seconds until the last sample at that rate."""
        return None if self.rate is None else (self.total - self.done) / self.rate
