"""Work on a GPU that is not the current one, shown on a CPU by queues that stand for two GPUs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from project import ROOT

from asap_eval.models.zoo import check_device
from asap_eval.transfer import Arriving, mark

SECOND = torch.device("cuda:1")

NAMELESS = {
    "is_available",
    "device_count",
    "empty_cache",
    "OutOfMemoryError",
    "set_sync_debug_mode",
}
"""Of torch.cuda, what concerns no device, or all of them."""


class Queue:
    """What a GPU has still to do."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def run(self, count: int) -> None:
        for step in self.work[:count]:
            step()
        del self.work[:count]


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> dict[torch.device, Queue]:
    """Two GPUs of which the first is the current one; nothing runs until it is waited for."""
    found = {torch.device("cuda:0"): Queue(), SECOND: Queue()}

    def queue(device: Any = None) -> Queue:
        return found[torch.device("cuda:0" if device is None else device)]

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            self.timed = enable_timing

        def record(self, stream: Queue | None = None) -> None:
            self.queue = queue() if stream is None else stream
            self.behind = len(self.queue.work)

        def synchronize(self) -> None:
            self.queue.run(self.behind)

    class Pinned:
        def __init__(self, shape: Any, dtype: Any, pin_memory: bool) -> None:
            assert pin_memory
            self.values = torch.zeros(tuple(shape), dtype=dtype)

        def copy_(self, source: OnSecond, non_blocking: bool) -> None:
            assert non_blocking

            def arrive() -> None:
                self.values.copy_(source.values)

            queue(source.device).work.append(arrive)

        def tolist(self) -> Any:
            return self.values.tolist()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", queue)
    monkeypatch.setattr(torch, "empty", Pinned)
    return found


class OnSecond:
    """A tensor on the second GPU."""

    device = SECOND

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype


def test_counts_are_read_once_they_are_here(queues: dict[torch.device, Queue]) -> None:
    counts = torch.tensor([3, 1, 2])
    assert Arriving(OnSecond(counts)).list() == [3, 1, 2]  # type: ignore[arg-type]


def test_a_mark_lies_behind_the_work_of_its_device(queues: dict[torch.device, Queue]) -> None:
    done: list[str] = []
    queues[SECOND].work.append(lambda: done.append("work"))
    marked = mark(SECOND, timed=True)
    queues[SECOND].work.append(lambda: done.append("later"))
    marked.synchronize()
    assert done == ["work"]


def test_a_kernel_is_launched_on_the_device_of_its_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mean_map = pytest.importorskip("asap_eval.kernels.mean_map", reason="no Triton")
    current: list[torch.Tensor] = []
    launched: list[torch.Tensor] = []

    @contextmanager
    def device_of(tensor: torch.Tensor) -> Iterator[None]:
        current.append(tensor)
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            return lambda *_, **__: launched.extend(current)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(mean_map, "_tile", Kernel())
    q, k, _ = torch.zeros(4, 3, 1, 16).unbind(1)
    one = torch.tensor([4])
    mean_map.mean_maps(
        q, k, None, torch.zeros(1, 4), True, one - 4, one - 4, one, torch.empty(1, 4, 4)
    )
    assert [tensor is q for tensor in launched] == [True]


@pytest.mark.parametrize(("asked", "wanted"), [("cuda:1", 1), ("cuda:0", 0), ("cuda", 0)])
def test_the_device_of_a_run_is_the_current_one(
    asked: str, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = [torch.device("cuda", 1 - wanted)]  # an earlier run's
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(device))
    assert check_device(asked) == current[-1] == torch.device("cuda", wanted)


def unnamed(path: Path) -> list[str]:
    """Calls of ``torch.cuda`` that act on whatever device is the current one."""
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        name = ast.unparse(call.func)
        if name.rpartition(".")[0] == "torch.cuda" and name.rpartition(".")[2] not in NAMELESS:
            # Where an event lies is up to `record`; `mark` alone makes them.
            event = name.endswith(".Event") and path.name != "transfer.py"
            if event or not (call.args or call.keywords):
                found.append(f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}")
    return found


def test_every_call_of_cuda_names_its_device() -> None:
    files = [
        path for folder in ("asap_eval", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    assert [line for path in files for line in unnamed(path)] == []
