"""Work as torch counts it: of a whole call, and of what a method does by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode, bmm_flop, sdpa_flop_count

from asap_eval.hosts.operators import AttentionProducts, Operations
from asap_eval.method import Reducer

BMM = torch.ops.aten.bmm
"""Where products have one term they are no sums: some releases of transformers make the angles of
rotary positions that way, others multiply."""

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""The CPU's fused attention; some releases of torch count nothing of it."""

ASKED = (
    *("begin", "watch", "rows", "observes", "observe", "admit", "decide"),
    *("attend", "cached", "feed", "pack"),
)
"""Functions of a method that a host calls during a pass, `macs` itself left out."""


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts the operations inside the ``with``; attention runs in torch, which can count it."""

    def attention(q: list[int], k: list[int], v: list[int], *_: object, **__: object) -> int:
        return int(sdpa_flop_count(q, k, v))

    def bmm(a: list[int], b: list[int], *_: object, **__: object) -> int:
        return int(bmm_flop(a, b)) if a[-1] > 1 else 0

    counter = FlopCounterMode(display=False, custom_mapping={FUSED: attention, BMM: bmm})
    with in_torch(), counter:
        yield counter


@contextmanager
def in_torch() -> Iterator[None]:
    """Kernels of ours, which no counter sees, give way to the lines of torch they stand for."""
    with patch.dict("os.environ", ASAP_EVAL_KERNELS="torch"):
        yield


class Sums(Operations):
    """As `Operations`, without products of one term, as in `counting`."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket is BMM and args[0].shape[-1] == 1:
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


def counted(reducer: Reducer) -> tuple[Reducer, Counter[str]]:
    """The method with a counter in each of its functions.

    Returns:
        A method that does the same, and MACs by the name of the function, filled while it runs.
    """
    done: Counter[str] = Counter()

    def counter(name: str) -> Callable[..., Any]:
        function = getattr(type(reducer), name)

        def run(self: Reducer, *args: Any) -> Any:
            with AttentionProducts(), Sums() as operations:
                found = function(self, *args)
            done[name] += operations.total // 2
            return found

        return run

    # Hosts ask some functions only of methods that have their own.
    own = [name for name in ASKED if getattr(type(reducer), name) is not getattr(Reducer, name)]
    return like(reducer, **{name: counter(name) for name in own}), done


def like(reducer: Reducer, **members: Any) -> Reducer:
    """The same method, its options among it, with some members of its class replaced."""
    cls = type(reducer)
    changed: Reducer = object.__new__(type(cls.__name__, (cls,), members))
    changed.__dict__.update(reducer.__dict__)
    return changed
