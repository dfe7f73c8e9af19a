"""Speed, measured side by side: the method against unpruned baselines in one process.

Every round runs all contenders on one batch of real images, in turn forwards and backwards, and the
ratios are taken inside the round: drift of the machine cancels. The fused baseline is the fastest
the unpruned model can go: the untouched model with torch's fused attention or, where our compiled
kernel runs and is faster, the model with that. The matched baseline computes what the method reads
and prunes nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.hosts import geometry_of, install
from asap_eval.hosts.attention import kernel_of
from asap_eval.kernels import takes
from asap_eval.method import Batch, Need, Reducer, View, build
from asap_eval.timing.allocator import keep_freed_memory
from asap_eval.tokens import Reduction
from asap_eval.transfer import mark
from asap_eval.work.macs import model_macs, unpruned_macs


@dataclass(frozen=True)
class Pixels:
    """One batch to time: ``images [B, 3, H, W]`` on the model's device, and their ids."""

    images: Tensor
    ids: tuple[str, ...]


class Matched(Reducer):
    """Reads what another method reads, in the blocks where it would, and removes nothing."""

    name = "matched"

    def __init__(self, reducer: Reducer) -> None:
        self.of = reducer
        self.site = reducer.site  # type: ignore[misc]

    @property
    def needs(self) -> frozenset[Need]:
        return self.of.needs

    def begin(self, batch: Batch) -> Any:
        return self.of.begin(batch)

    def watch(self, block: int, state: Any) -> bool | Tensor:
        return self.of.watch(block, state) if self.needs else False

    def decide(self, view: View, state: Any) -> Reduction | None:
        for need in self.needs:
            view.read(need)
        return None


class Unpruned(Reducer):
    """The whole model, with the attention kernel that methods run with."""

    name = "unpruned"

    def watch(self, block: int, state: Any) -> bool:
        return False


def fastest_unpruned(like: Tensor) -> Reducer:
    """What to install for the unpruned model where torch's own kernels are not timed beside it."""
    return Unpruned() if takes(like) else build("none")


def measure_speed(
    model: nn.Module,
    reducer: Reducer,
    batches: Sequence[Pixels],
    *,
    rounds: int = 30,
    warmup: int = 2,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """The ``speed`` block of a record.

    Args:
        model: a supported model in eval mode. reducer: the method.
        batches: real images; round r uses batch r modulo their number.
        rounds: counted rounds, after ``warmup`` uncounted ones.
        progress: called after every round.
        clock: seconds, read before and after a pass on a CPU; `time.process_time` leaves out what
            other work on the machine takes, and is the clock of one thread alone.

    Returns:
        ``fused_img_s matched_img_s method_img_s`` (images per second, median), ``fused_by``
        (``torch`` or ``native``, whichever was faster),
        ``speedup{median p10 p90}`` over the fused baseline, ``ideal`` (unpruned MACs over the
        method's model MACs on these images, its own products left out), ``share_of_ideal``,
        ``rounds backend`` and ``times_s``, the raw times of every contender.
    """
    count = len(batches[0].images)
    conditions = backend(batches[0].images)  # before the rounds: it also settles the allocator
    contenders: dict[str, Reducer | None] = {
        "torch": None,
        "matched": Matched(reducer),
        "method": reducer,
    }
    if takes(batches[0].images):
        contenders["native"] = Unpruned()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for number in range(-warmup, rounds):
            pixels = batches[number % len(batches)]
            order = list(contenders)[:: 1 if number % 2 == 0 else -1]
            taken = {name: _seconds(model, contenders[name], pixels, seed, clock) for name in order}
            if number >= 0:
                for name, seconds in taken.items():
                    times[name].append(seconds)
            progress()
        ideal = _ideal(model, reducer, batches, rounds, seed)
    whole = [name for name in ("torch", "native") if name in times]
    fastest = min(whole, key=lambda name: statistics.median(times[name]))
    speedup = spread([f / m for f, m in zip(times[fastest], times["method"], strict=True)])
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    medians["fused"] = medians[fastest]
    return {
        **{f"{name}_img_s": count / medians[name] for name in ("fused", "matched", "method")},
        "fused_by": fastest,
        "speedup": speedup,
        "ideal": ideal,
        "share_of_ideal": speedup["median"] / ideal,
        "rounds": rounds,
        "backend": conditions,
        "times_s": times,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    marks = torch.tensor([0.5, 0.1, 0.9], dtype=torch.float64)
    at = torch.quantile(torch.tensor(values, dtype=torch.float64), marks)
    return dict(zip(("median", "p10", "p90"), at.tolist(), strict=True))


def _ideal(
    model: nn.Module, reducer: Reducer, batches: Sequence[Pixels], rounds: int, seed: int
) -> float:
    """Unpruned over pruned MACs, each batch weighted by the rounds that used it."""
    geometry = geometry_of(model)
    work = []
    for place, pixels in enumerate(batches[:rounds]):
        with install(model, reducer, seed=seed) as trace:
            trace.name_images(pixels.ids)
            model(pixels.images)
        uses = len(range(place, rounds, len(batches)))
        work += [float(model_macs(geometry, trace).mean())] * uses
    return unpruned_macs(geometry) / statistics.fmean(work)


def _seconds(
    model: nn.Module,
    reducer: Reducer | None,
    pixels: Pixels,
    seed: int,
    clock: Callable[[], float],
) -> float:
    """Seconds of one forward pass: events on a GPU, a clock around it elsewhere. A method is
    installed once for many batches, so that is not counted."""
    with ExitStack() as stack:
        if reducer is not None:
            stack.enter_context(install(model, reducer, seed=seed)).name_images(pixels.ids)
        device = pixels.images.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            start = mark(device, timed=True)
            model(pixels.images)
            end = mark(device, timed=True)
            torch.cuda.synchronize(device)
            return float(start.elapsed_time(end)) / 1e3
        begin = clock()
        model(pixels.images)
        return clock() - begin


def backend(images: Tensor) -> dict[str, Any]:
    """What decides how fast this was: device, threads or clocks, precision, batch, kernels."""
    described: dict[str, Any] = {
        "device": images.device.type,
        "dtype": str(images.dtype).removeprefix("torch."),
        "batch_size": len(images),
        "attention": kernel_of(images),
        "torch": torch.__version__,
    }
    if images.device.type != "cuda":
        return described | {
            "threads": torch.get_num_threads(),
            "allocator": keep_freed_memory(),
        }
    return described | {
        "gpu": torch.cuda.get_device_name(images.device),
        "sm_clock_mhz": _clock(images.device),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "memory_efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
    }


def _clock(device: torch.device) -> int | None:
    """The GPU's clock before the rounds; None where the driver's library does not tell it."""
    try:
        return int(torch.cuda.clock_rate(device))
    except Exception:  # no library, no driver, no permission, MIG: its errors share no base class
        return None
