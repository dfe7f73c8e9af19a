"""Where the time of a step goes: named sections around functions of somebody else.

Sections nest, and each counts its own time alone: what runs inside an inner one is not the outer
one's. On a GPU they are events in the stream, read once the step is over, so that nothing waits
inside it; elsewhere a clock around each call.
"""

from __future__ import annotations

import functools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from asap_eval.transfer import mark


class Sections:
    """Own time of named sections, in milliseconds.

    Args:
        device: of the work that is timed.

    Attributes:
        calls: how often each section was entered since the last `take`.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu, self._device = device.type == "cuda", device
        self._open: list[str] = []
        self.calls: Counter[str] = Counter()
        self._marks: list[tuple[str | None, Any]] = []

    def _now(self) -> Any:
        if not self._gpu:
            return time.perf_counter()
        return mark(self._device, timed=True)

    def _mark(self) -> None:
        """From here on the innermost open section runs."""
        self._marks.append((self._open[-1] if self._open else None, self._now()))

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """What runs inside belongs to ``name``, but for sections inside it."""
        self._open.append(name)
        self.calls[name] += 1
        self._mark()
        try:
            yield
        finally:
            self._open.pop()
            self._mark()

    @contextmanager
    def around(self, owner: Any, function: str, name: str) -> Iterator[None]:
        """Inside, every call of ``owner.function`` (a class, module or object) is a section.

        Raises:
            AttributeError: there is no such function.
        """
        plain = getattr(owner, function)

        @functools.wraps(plain)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.section(name):
                return plain(*args, **kwargs)

        own = function in vars(owner)
        setattr(owner, function, timed)
        try:
            yield
        finally:
            if own:
                setattr(owner, function, plain)
            else:
                delattr(owner, function)

    def take(self) -> dict[str, float]:
        """Milliseconds of each section since the last `take`; outside every section is left out."""
        if self._gpu:
            torch.cuda.synchronize(self._device)
        spent: dict[str, float] = defaultdict(float)
        for (name, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            if name is not None:
                spent[name] += begin.elapsed_time(end) if self._gpu else 1e3 * (end - begin)
        self._marks.clear()
        self.calls.clear()
        return dict(spent)


def milliseconds(step: Callable[[], object], device: torch.device) -> float:
    """Of one step, everything it launches included."""
    sections = Sections(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    with sections.section("step"):
        step()
    return sections.take()["step"]
