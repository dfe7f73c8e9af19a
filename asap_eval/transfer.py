"""Small numbers between the CPU and a GPU without making either wait for the other.

An ordinary copy stops the CPU until everything queued on the GPU has run; the GPU then idles until
the CPU has caught up. Copies through pinned memory are queued like any other work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_device(values: Sequence[Any] | Tensor, device: torch.device) -> Tensor:
    """A tensor of whole numbers on the device; on a GPU it arrives in the order of the queue."""
    made = torch.as_tensor(values, dtype=torch.long)
    if device.type == "cuda":
        return made.pin_memory().to(device, non_blocking=True)
    return made.to(device)


def mark(device: torch.device, *, timed: bool = False) -> torch.cuda.Event:
    """A mark behind what is queued on this GPU, whichever GPU is the current one.

    An event that is recorded without a stream goes into the queue of the current device: there it
    passes at once, whatever another one has still to do.

    Args:
        device: of the work. timed: `elapsed_time` between two such marks will be asked.
    """
    event = torch.cuda.Event(enable_timing=timed)
    event.record(torch.cuda.current_stream(device))
    return event


class Arriving:
    """A small tensor on its way to the CPU; work queued after this is not waited for.

    Args:
        values: any shape, on any device.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._event: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = mark(values.device)

    def tensor(self) -> Tensor:
        """The values on the CPU, once they are here."""
        if self._event is not None:
            self._event.synchronize()
        return self._values

    def list(self) -> Any:
        """The values as nested lists, once they are here."""
        return self.tensor().tolist()
