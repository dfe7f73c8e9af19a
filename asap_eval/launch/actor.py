"""What runs on a machine of a Ray cluster: opens jobs and gives rows, and sees no results folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Generator

import torch

from asap_eval.record import Calibration, RunRecord
from asap_eval.record.journal import Row
from asap_eval.runner.piece import Opening, calibration_of, opened, rows_of
from asap_eval.runner.pieces import Piece
from asap_eval.runner.prepare import Prepared


class Actor:
    """One process with its device; asked by one thread of the head, one question after the other.

    Rows are asked for batch by batch instead of sent as a stream, which Ray's client cannot take.
    """

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self._ready: Prepared | None = None
        self._record: RunRecord | None = None
        self._rows: Generator[list[Row], None, None] | None = None

    def facts(self) -> tuple[str, int, str, int]:
        """Host, process, device and threads."""
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return platform.node(), os.getpid(), gpu, torch.get_num_threads()

    def open(self, record: RunRecord) -> None:
        """Open the job of a running record; raises what `opened` raises."""
        self.close()
        if self._record is None or self._record.key != record.key:
            self._ready = None  # its model's memory is free before the next one is loaded
            self._ready = opened(record, self.opening)
        self._record = record

    def calibrated(self) -> Calibration:
        assert self._ready is not None
        return calibration_of(self._ready, self.opening)

    def begin(self, piece: Piece) -> None:
        """The next rows are those of this piece."""
        assert self._ready is not None
        assert self._record is not None
        self.close()
        self._rows = rows_of(self._ready, self._record, piece, self.opening)

    def next(self) -> list[Row] | None:
        """The rows of the next batch; None after the last."""
        assert self._rows is not None
        return next(self._rows, None)

    def close(self) -> None:
        """Take the method out of the model."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
