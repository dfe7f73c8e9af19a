"""Walks over attention maps: products of fp32 matrices with an odd number of columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.kernels.native import Walk, loaded, takes, workspace


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


def walked(rows: Tensor, attention: Tensor, alpha: float, like: torch.dtype) -> Tensor:
    """``rows (alpha A + (1 - alpha) I)``: walks, one step further.

    On a CPU a compiled kernel does it in fp32, where there is one: torch's batched product of
    matrices that begin anywhere in memory takes half as long again. A walk's bits depend neither
    on the others nor on the number of threads there.

    Args:
        rows: ``[b, M, W]``, zeros behind the first N columns, with W = `room` (N); written over
            unless autograd follows.
        attention: ``[b, N, N]`` A; its diagonal may be written over.
        like: dtype of the model; see `as_exact_as`.

    Returns:
        Walks like ``rows``, maybe the same memory.
    """
    if not torch.is_grad_enabled() and rows.is_contiguous() and takes(rows, attention):
        return _natively(rows, widened(attention).contiguous(), alpha)
    # A changed diagonal instead of a second term: adding rows to the product is a pass over them.
    attention.diagonal(dim1=1, dim2=2).add_((1 - alpha) / alpha)
    with as_exact_as(like, rows.device):
        return torch.baddbmm(rows, rows, widened(attention), beta=0, alpha=alpha)


def _natively(rows: Tensor, attention: Tensor, alpha: float) -> Tensor:
    """In place. Both are contiguous."""
    found = loaded()
    count, many, length = rows.shape
    if attention.shape != (count, length, length):
        raise ValueError(f"{[*rows.shape]} cannot take a step of {[*attention.shape]}.")
    threads = torch.get_num_threads()
    memory = workspace(threads * found.walk_workspace(length))
    call = Walk(
        rows=rows.data_ptr(),
        maps=attention.data_ptr(),
        workspace=memory.data_ptr(),
        count=count,
        M=many,
        N=length,
        # Few walks are cut, so that all threads end together.
        parts=1 if count >= 4 * threads else threads,
        threads=threads,
        alpha=alpha,
    )
    found.walk(call)
    return rows
