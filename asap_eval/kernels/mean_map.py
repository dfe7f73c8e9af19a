"""Head-mean attention maps on a GPU, from queries, keys and what fused attention knows of its rows.

Fused attention never has a map; it has the logarithm of each row's sum of exponentials. With it a
tile of the map needs no softmax: ``exp(q k - logsumexp)``, summed over the heads in registers, is
written once. Maps of single heads never exist.

Triton only; `asap_eval.hosts.attention` decides when it runs. ``TRITON_INTERPRET=1`` runs it on a
CPU, for tests.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(math.log2(math.e))

TILES: dict[str, Any] = {"ROWS": 64, "COLUMNS": 64, "num_warps": 4, "num_stages": 2}
"""Shape of a tile of the map and how a program runs."""


@triton.jit
def _tile(  # type: ignore[no-untyped-def]
    q,
    k,
    bias,
    lse,
    out,
    images,
    starts,
    lengths,
    q_token,
    q_head,
    k_token,
    k_head,
    lse_image,
    lse_start,
    lse_head,
    out_image,
    out_row,
    longest,
    scale,
    heads,
    width: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of one image's map, all heads."""
    at = tl.program_id(2)
    image = tl.load(images + at)
    start, length = tl.load(starts + image), tl.load(lengths + image)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, WIDTH)
    query = q + (start + row)[:, None] * q_token + inner[None, :]
    key = k + (start + column)[None, :] * k_token + inner[:, None]
    sums = lse + image * lse_image + start * lse_start + row
    has_row, has_column = row < length, column < length
    reads_q = has_row[:, None] & (inner < width)[None, :]
    reads_k = has_column[None, :] & (inner < width)[:, None]
    added = tl.zeros([COLUMNS], tl.float32)
    if BIASED:
        added = tl.load(bias + start + column, mask=has_column, other=0.0) * LOG2E
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for head in range(heads):
        queries = tl.load(query + head * q_head, mask=reads_q, other=0.0)
        keys = tl.load(key + head * k_head, mask=reads_k, other=0.0)
        scores = tl.dot(queries, keys, input_precision=PRECISION) * (scale * LOG2E)
        row_sum = tl.load(sums + head * lse_head, mask=has_row, other=0.0) * LOG2E
        total += tl.exp2(scores + added[None, :] - row_sum[:, None])
    kept = has_row[:, None] & has_column[None, :]
    place = out + at.to(tl.int64) * out_image + row[:, None] * out_row + column[None, :]
    inside = (row < longest)[:, None] & (column < longest)[None, :]
    tl.store(place, tl.where(kept, total / heads, 0.0), mask=inside)


def mean_maps(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    lse: Tensor,
    packed_lse: bool,
    images: Tensor,
    starts: Tensor,
    lengths: Tensor,
    out: Tensor,
) -> None:
    """Writes the maps of some images, mean over heads.

    fp32 queries and keys are multiplied as three TF32 products each, which is as exact as fp32.

    Args:
        q, k: ``[T, H, d]``, any strides but a dense last dimension.
        bias: ``[T]`` fp32, added to the logits of each key, or ``None``.
        lse: natural logarithm of each row's sum of exponentials, fp32: ``[H, T]`` (``packed_lse``),
            or ``[B, H, n]`` with n >= the longest image, an image's rows from 0.
        images: ``[b]`` images whose maps are wanted. starts, lengths: ``[B]`` of all images, int64.
        out: ``[b, N, N]`` fp32, dense in the last dimension; what lies beyond an image is 0.
    """
    count, longest, _ = out.shape
    heads, width = q.shape[1:]
    rows, columns = TILES["ROWS"], TILES["COLUMNS"]
    grid = (triton.cdiv(longest, columns), triton.cdiv(longest, rows), count)
    strides = (0, 1, lse.stride(0)) if packed_lse else (lse.stride(0), 0, lse.stride(1))
    _tile[grid](
        q,
        k,
        q if bias is None else bias,
        lse,
        out,
        images,
        starts,
        lengths,
        q.stride(0),
        q.stride(1),
        k.stride(0),
        k.stride(1),
        *strides,
        out.stride(0),
        out.stride(1),
        longest,
        width**-0.5,
        heads,
        width=width,
        WIDTH=max(16, triton.next_power_of_2(width)),
        BIASED=bias is not None,
        PRECISION="tf32x3" if q.dtype == torch.float32 else "tf32",
        **TILES,
    )
