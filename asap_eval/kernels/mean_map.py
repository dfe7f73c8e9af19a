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

TILES: dict[int, dict[str, Any]] = {
    2: {"ROWS": 64, "COLUMNS": 64, "num_warps": 4, "num_stages": 3},
    4: {"ROWS": 64, "COLUMNS": 128, "num_warps": 8, "num_stages": 2},
}
"""Shape of a tile of the map and how a program runs, by the bytes of a query's element. That of 16
bits is the best of those tried on an H200, before the last tiles of a map were smaller; that of 32
bits never ran: it is chosen to fit."""

DEPTHS = {2: 64, 4: 16}
"""Most of a head's width that is multiplied at once, by the bytes of a query's element. What a
program holds on the chip grows with this and not with the width, so that one tile fits every model.
Three TF32 products hold each operand twice, so they take little of it at a time."""

EDGE = 16
"""Side of the smaller tile that runs where no more of an image is left. An image seldom fills its
last tiles: whole ones of 64 would compute 197 tokens' map 1.7 times over. Tensor cores take no
smaller tile."""


@triton.jit
def _part(  # type: ignore[no-untyped-def]
    here,
    high,
    wide,
    strides,
    scale,
    heads,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HOW: tl.constexpr,
):
    """One tile of one map, all heads, of which ``high`` rows and ``wide`` columns exist."""
    query, key, added, sums, target = here
    q_token, q_head, k_token, k_head, lse_head, out_row = strides
    width: tl.constexpr = HOW[0]
    DEPTH: tl.constexpr = HOW[1]
    BIASED: tl.constexpr = HOW[2]
    PRECISION: tl.constexpr = HOW[3]
    rows, columns, inner = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    has_row, has_column = rows < high, columns < wide
    query += rows[:, None] * q_token + inner[None, :]
    key += columns[None, :] * k_token + inner[:, None]
    factor = scale * LOG2E
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for head in range(heads):
        scores = tl.zeros([ROWS, COLUMNS], tl.float32)
        for at in range(0, width, DEPTH):
            left = inner < width - at
            reads_q = has_row[:, None] & left[None, :]
            reads_k = has_column[None, :] & left[:, None]
            queries = tl.load(query + head * q_head + at, mask=reads_q, other=0.0)
            keys = tl.load(key + head * k_head + at, mask=reads_k, other=0.0)
            scores = tl.dot(queries, keys, scores, input_precision=PRECISION)
        shift = tl.load(sums + head * lse_head + rows, mask=has_row, other=0.0)[:, None]
        if BIASED:
            shift = shift - tl.load(added + columns, mask=has_column, other=0.0)[None, :]
        total += tl.exp2(scores * factor - shift * LOG2E)
    kept = has_row[:, None] & has_column[None, :]
    tl.store(target + rows[:, None] * out_row + columns[None, :], total / heads, mask=kept)


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
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EDGE: tl.constexpr,
    UNIT: tl.constexpr,
    HOW: tl.constexpr,
):
    """One tile of one image's map: what of it the image has, and zeros beyond.

    Strides of queries and keys come in units of ``UNIT`` elements: what is known to be a multiple
    of 16 bytes is loaded so.
    ``HOW`` is the width of a head, how much of it is multiplied at once (a power of two), whether
    there is a bias, and the precision of products.
    """
    at = tl.program_id(2)
    image = tl.load(images + at)
    start, length = tl.load(starts + image), tl.load(lengths + image)
    row, column = tl.program_id(1) * ROWS, tl.program_id(0) * COLUMNS
    high, wide = length - row, length - column
    target = out + at.to(tl.int64) * out_image + row * out_row + column
    if (high < ROWS) | (wide < COLUMNS):
        rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
        beyond = (rows >= high)[:, None] | (columns >= wide)[None, :]
        inside = (row + rows < longest)[:, None] & (column + columns < longest)[None, :]
        place = target + rows[:, None] * out_row + columns[None, :]
        tl.store(place, tl.zeros([ROWS, COLUMNS], tl.float32), mask=beyond & inside)
    if (high > 0) & (wide > 0):
        strides = (q_token * UNIT, q_head * UNIT, k_token * UNIT, k_head * UNIT, lse_head, out_row)
        query, key = q + (start + row) * strides[0], k + (start + column) * strides[2]
        sums = lse + image * lse_image + start * lse_start + row
        here = (query, key, bias + start + column, sums, target)
        if high > EDGE:
            if wide > EDGE:
                _part(here, high, wide, strides, scale, heads, ROWS, COLUMNS, HOW)
            else:
                _part(here, high, wide, strides, scale, heads, ROWS, EDGE, HOW)
        elif wide > EDGE:
            _part(here, high, wide, strides, scale, heads, EDGE, COLUMNS, HOW)
        else:
            _part(here, high, wide, strides, scale, heads, EDGE, EDGE, HOW)


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
    tiles = TILES[q.element_size()]
    depth = min(DEPTHS[q.element_size()], max(16, triton.next_power_of_2(width)))
    precision = "tf32x3" if q.dtype == torch.float32 else "tf32"
    grid = (triton.cdiv(longest, tiles["COLUMNS"]), triton.cdiv(longest, tiles["ROWS"]), count)
    steps = (q.stride(0), q.stride(1), k.stride(0), k.stride(1))
    unit = math.gcd(8, *steps)
    rows = (0, 1, lse.stride(0)) if packed_lse else (lse.stride(0), 0, lse.stride(1))
    # Triton launches on the current device, which need not be the one of these tensors.
    with torch.cuda.device_of(q):
        _tile[grid](
            q,
            k,
            q if bias is None else bias,
            lse,
            out,
            images,
            starts,
            lengths,
            *(step // unit for step in steps),
            *rows,
            out.stride(0),
            out.stride(1),
            longest,
            width**-0.5,
            heads,
            EDGE=EDGE,
            UNIT=unit,
            HOW=(width, depth, bias is not None, precision),
            **tiles,
        )
