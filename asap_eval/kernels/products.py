"""Products of fp32 matrices with an odd number of columns, as attention maps have, on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor


def room(columns: int, device: torch.device) -> int:
    """Columns to allocate, so that rows begin at multiples of 32 bytes: a GPU's tensor cores and
    its wide loads need that. A CPU's batched product needs rows without gaps."""
    return -(-columns // 8) * 8 if device.type == "cuda" else columns


def widened(maps: Tensor) -> Tensor:
    """``[b, M, M]`` around whole maps ``[b, N, N]``: zeros to M = `room` (N), where all sides of a
    product are what tensor cores take. A view, where the maps were allocated so."""
    count, length, _ = maps.shape
    size = room(length, maps.device)
    strides = (size * size, size, 1)
    if maps.stride() == strides:
        return maps.as_strided((count, size, size), strides)
    return F.pad(maps, (0, size - length, 0, size - length))


@contextmanager
def as_exact_as(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """fp32 products inside the ``with`` round no more than a model of this ``dtype`` has done.

    For a 16 bit model on a GPU they run on tensor cores as TF32: operands are rounded to the 11
    bits of fp16, sums are fp32. Otherwise they are as fp32 as the user's setting of torch.
    """
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
