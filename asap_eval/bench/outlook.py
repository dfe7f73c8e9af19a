"""What can be said of a run before anything is loaded: its size, and what this machine lacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

MEMORY = Path("/proc/meminfo")
"""Where Linux says how much memory a process can have."""


@dataclass
class Outlook:
    """Lines of a plan.

    Attributes:
        lines: ``(head, text)`` each. missing: what a run needs and this machine lacks.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def lacking_memory(device: str, needed_gb: float) -> str | None:
    """Why a device cannot hold so much; None where it can, or where nothing is known of it."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        if not torch.cuda.is_available():
            return f"device={device}: there is no GPU here."
        free, _ = torch.cuda.mem_get_info(torch.device(device))
    elif kind == "cpu" and MEMORY.is_file():
        lines = dict(line.split(":") for line in MEMORY.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    else:
        return None
    if free / 1e9 >= needed_gb:
        return None
    return f"memory of {device}: {free / 1e9:.1f} GB are free, about {needed_gb:.1f} GB are needed."
