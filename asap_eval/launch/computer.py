"""What computes for a worker: this process, or whatever an engine puts in its place."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import torch

from asap_eval.files import digests
from asap_eval.launch.parts import Parts
from asap_eval.launch.queue import Queue
from asap_eval.record import Calibration, RunRecord
from asap_eval.record.journal import Row
from asap_eval.runner.conclude import speed_of
from asap_eval.runner.latest_model import free_memory
from asap_eval.runner.piece import calibration_of, opened, reducer_of, rows_of
from asap_eval.runner.pieces import Piece
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.provenance import machine


class LostError(Exception):
    """What computes is gone: nothing is wrong with the piece it was at, and others may take it."""


class Computer:
    """Opens jobs and computes pieces in this process; an engine overrides what runs elsewhere."""

    def __init__(self, queue: Queue, device: str | None = None) -> None:
        """As a worker's.

        Args:
            device: where models lie, None = where jobs say.
        """
        self.queue, self._on = queue, device
        self._ready: Prepared | None = None

    def ready(self, record: RunRecord) -> Prepared:
        """The job of a record, opened here: its samples, and what makes a record of rows.

        Raises:
            AsapEvalError: it cannot be opened here, or would give other numbers.
        """
        if self._ready is None or self._ready.key != record.key:
            self._ready = None  # before another model is loaded: two may not fit into memory
            parts = Parts(self.queue.results, record.stem)
            with suppress(FileNotFoundError):  # of a job that an older version began
                digests.trust(json.loads(parts.digests.read_text(encoding="utf-8")))
            self._ready = opened(record, self.queue.opening, parts.listing, self._on)
        return self._ready

    def calibration(self, record: RunRecord) -> Calibration:
        """The knob that meets the budget of a job."""
        return calibration_of(self.ready(record), self.queue.opening)

    def rows(self, record: RunRecord, piece: Piece) -> Generator[list[Row], None, None]:
        """Rows of a piece, batch by batch."""
        return rows_of(self.ready(record), record, piece, self.queue.opening)

    def speed(self, record: RunRecord) -> dict[str, Any]:
        """The ``speed`` block of a record."""
        ready = self.ready(record)
        return speed_of(ready, reducer_of(ready, record))

    def machine(self, record: RunRecord) -> dict[str, Any]:
        """The ``machine`` block of a record."""
        return {**machine(record.job.device), **self.ready(record).loaded.placement}

    def host(self) -> str:
        """Name of the machine that computes."""
        return socket.gethostname()

    def device(self, record: RunRecord) -> str:
        """What computes: ``cpu``, or the name of the GPU."""
        if not record.job.device.startswith("cuda"):
            return record.job.device
        return torch.cuda.get_device_name(torch.device(record.job.device))

    def threads(self) -> int:
        """Threads of torch on the CPU."""
        return torch.get_num_threads()

    def recover(self) -> None:
        """Called after an error, before anything else is computed."""
        free_memory()
