"""Work as torch counts it, to compare our closed forms with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode, bmm_flop, sdpa_flop_count

BMM = torch.ops.aten.bmm
"""Where products have one term they are no sums: some releases of transformers make the angles of
rotary positions that way, others multiply."""

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""The CPU's fused attention; some releases of torch count nothing of it."""


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts the operations inside the ``with``; attention runs in torch, which can count it."""

    def attention(q: list[int], k: list[int], v: list[int], *_: object, **__: object) -> int:
        return sdpa_flop_count(q, k, v)

    def bmm(a: list[int], b: list[int], *_: object, **__: object) -> int:
        return bmm_flop(a, b) if a[-1] > 1 else 0

    counter = FlopCounterMode(display=False, custom_mapping={FUSED: attention, BMM: bmm})
    with patch.dict("os.environ", ASAP_EVAL_KERNELS="torch"), counter:
        yield counter
