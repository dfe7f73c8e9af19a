"""What runs on a node of a Ray cluster: opens jobs, gives rows, and sees no results folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from asap_eval.launch.computer import Computer
from asap_eval.launch.queue import Queue
from asap_eval.record import Calibration, RunRecord
from asap_eval.record.journal import Row
from asap_eval.runner.pieces import Piece


class Facts(NamedTuple):
    """Where an actor is, and its threads of torch."""

    host: str
    threads: int


class Actor:
    """One process with its device; asked by one thread of the command, question after question.

    Rows are asked for batch by batch and not sent as a stream, which Ray's client cannot take.
    """

    def __init__(self, queue: Queue) -> None:
        with suppress(FileNotFoundError):  # a node may lack it: absolute paths need it not
            os.chdir(queue.folder)
        self._computer = Computer(queue)
        self._rows: Generator[list[Row], None, None] | None = None

    def facts(self) -> Facts:
        return Facts(socket.gethostname(), torch.get_num_threads())

    def open(self, record: RunRecord) -> str:
        """Open the job of a running record; what computes it. Raises what `opened` raises."""
        self.close()
        self._computer.ready(record)
        return self._computer.device(record)

    def calibration(self, record: RunRecord) -> Calibration:
        self.close()
        return self._computer.calibration(record)

    def begin(self, record: RunRecord, piece: Piece) -> None:
        """The next rows are those of this piece."""
        self.close()
        self._rows = self._computer.rows(record, piece)

    def batch(self) -> list[Row] | None:
        """The rows of the next batch; None after the last."""
        assert self._rows is not None
        return next(self._rows, None)

    def speed(self, record: RunRecord) -> dict[str, Any]:
        self.close()
        return self._computer.speed(record)

    def machine(self, record: RunRecord) -> dict[str, Any]:
        return self._computer.machine(record)

    def close(self) -> None:
        """Take the method out of the model."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    def recover(self) -> None:
        """Called after an error, before anything else is computed."""
        self.close()
        self._computer.recover()
