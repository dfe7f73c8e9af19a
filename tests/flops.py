"""Work as torch counts it, to compare our closed forms with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""The CPU's fused attention; some releases of torch count nothing of it."""


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts the operations inside the ``with``; attention runs in torch, which can count it."""

    def attention(q: list[int], k: list[int], v: list[int], *_: object, **__: object) -> int:
        return sdpa_flop_count(q, k, v)

    counter = FlopCounterMode(display=False, custom_mapping={FUSED: attention})
    with patch.dict("os.environ", ASAP_EVAL_KERNELS="torch"), counter:
        yield counter
