"""What a method reads of attention: rows of single queries; keys and values by head."""

from __future__ import annotations

import torch
from torch import Tensor

from asap_eval.hosts.attention import map_dtype
from asap_eval.hosts.layout import Layout, by_token
from asap_eval.transfer import to_device

HALF = (torch.float16, torch.bfloat16)


def heads_first(t: Tensor, layout: Layout, watched: list[int]) -> Tensor:
    """``[b, H, N, d]`` of the watched images from ``[B, H, N, d]`` or ``[1, H, T, d]``."""
    return layout.images(by_token(t), watched).transpose(1, 2)


def attention_rows(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    layout: Layout,
    watched: list[int],
    queries: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Scores and attention of a few queries, both ``[b, H, R, N]`` fp32, computed again: the rest
    stays fused.

    The row of token 0 alone, one for each image, is computed in fp64 for a 16 bit model and rounded
    once, so that it depends on the image alone: how fp32 sums are grouped depends on the batch, and
    a token made with that row, rounded to 16 bits, carries the difference into the logits.

    Args:
        queries: ``[b, R]`` positions, -1 = none, and its row is 0; ``None`` = token 0 alone.
    """
    exact = queries is None and q.dtype in HALF
    dtype = torch.float64 if exact else map_dtype(q)
    keys = heads_first(k, layout, watched)
    lengths = to_device([layout.lengths[i] for i in watched], q.device)
    if queries is None:
        queries = torch.zeros_like(lengths)[:, None]
    starts = to_device([layout.starts[i] for i in watched], q.device)
    chosen = by_token(q)[starts[:, None] + queries.clamp(min=0)]
    logits = torch.einsum("brhd,bhnd->bhrn", chosen.to(dtype), keys.to(dtype))
    logits = logits * q.shape[-1] ** -0.5
    padding = (torch.arange(keys.shape[2], device=q.device) >= lengths[:, None])[:, None, None]
    if bias is not None:
        logits = logits + layout.images(bias, watched)[:, None, None]
    none = (queries < 0)[:, None, :, None]
    rows = logits.masked_fill(padding, -torch.inf).softmax(-1)
    read = logits.masked_fill(padding | none, 0), rows.masked_fill(none, 0)
    return read[0].to(map_dtype(q)), read[1].to(map_dtype(q))
