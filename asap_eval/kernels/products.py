"""Products of fp32 matrices with an odd number of columns, as attention maps have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.kernels.native import Products, load, takes, workspace


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


def scaled_product(
    left: Tensor, right: Tensor, factor: float, spare: Tensor, like: torch.dtype
) -> Tensor:
    """``factor left right`` of many small matrices.

    On a CPU a compiled kernel does it in fp32, where there is one: torch's batched product of
    matrices that begin anywhere in memory takes half as long again. A product's bits depend neither
    on the others nor on the number of threads there.

    Args:
        left: ``[b, M, N]``. right: ``[b, N, N]``.
        spare: ``[b, M, N]`` memory for the result, none of the others; it is left alone where
            autograd follows.
        like: dtype of the model; see `as_exact_as`.
    """
    # Autograd cannot follow a product that is written over an earlier one.
    out = None if torch.is_grad_enabled() else spare
    square = right.shape[1] == right.shape[2]
    if out is not None and square and out.is_contiguous() and takes(left, right, out):
        return _natively(left.contiguous(), right.contiguous(), factor, out)
    with as_exact_as(like, left.device):
        return torch.baddbmm(spare, left, right, beta=0, alpha=factor, out=out)


def _natively(left: Tensor, right: Tensor, factor: float, out: Tensor) -> Tensor:
    """Into ``out``. All are contiguous; ``right`` is square."""
    found = load()
    assert not isinstance(found, str)
    count, rows, length = out.shape
    if left.shape != out.shape or right.shape != (count, length, length):
        raise ValueError(f"{[*left.shape]} times {[*right.shape]} is not {[*out.shape]}.")
    threads = torch.get_num_threads()
    memory = workspace(threads * found.products_workspace(length))
    call = Products(
        left=left.data_ptr(),
        right=right.data_ptr(),
        out=out.data_ptr(),
        workspace=memory.data_ptr(),
        count=count,
        rows=rows,
        N=length,
        # Few products are cut, so that all threads end together.
        parts=1 if count >= 4 * threads else threads,
        threads=threads,
        factor=factor,
    )
    found.products(call)
    return out
