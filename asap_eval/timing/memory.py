"""The peak memory of a forward pass above the loaded model, and errors that say memory is full."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

_CPU_MEMORY = ("not enough memory", "can't allocate memory")
"""What torch's CPU allocator says; it has no error type of its own."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full, of the process or of a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _CPU_MEMORY)


def peak_gb(step: Callable[[], object], *devices: torch.device) -> float:
    """Peak of what ``step`` allocates, in GB (1e9 bytes), above what is allocated before it; of
    several GPUs the sum of their own peaks.

    On a CPU the allocator's own events are summed; memory a library takes past torch's allocator
    is not seen there.
    """
    if devices[0].type == "cuda":
        before = 0
        for device in devices:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before += torch.cuda.memory_allocated(device)
        step()
        for device in devices:
            torch.cuda.synchronize(device)
        return (sum(map(torch.cuda.max_memory_allocated, devices)) - before) / 1e9
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    peak = live = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return peak / 1e9
