"""Attention on a GPU: packed sequences, and head-mean maps beside fused attention.

Everything here is PyTorch's own fused attention, called so that it also gives the logarithm of its
row sums; from these `asap_eval.kernels.mean_map` makes maps.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from asap_eval.hosts.layout import Layout, by_token
from asap_eval.kernels.walk import room
from asap_eval.transfer import to_device

HALF = (torch.float16, torch.bfloat16)


@cache
def map_kernel() -> str:
    """What makes head-mean maps on this machine's GPUs, for a record."""
    try:
        import triton
    except ImportError:
        return "torch (no Triton)"
    return f"Triton {triton.__version__}"


def maps_itself(q: Tensor) -> bool:
    """Whether `attend_with_mean_maps` can be used: Triton is there, and nobody wants gradients."""
    followed = torch.is_grad_enabled() and q.requires_grad
    return not followed and q.shape[-1] % 8 == 0 and map_kernel().startswith("Triton")


def attend_packed(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None
) -> tuple[Tensor, Tensor, bool]:
    """Fused attention of every image over its own tokens, lengths may differ.

    16 bit without bias runs packed. fp32 and biases, which PyTorch offers for blocks alone, run in
    one padded call: launches cost more than the padding of attention.

    Args:
        q, k, v: ``[T, H, d]``. bias: ``[T]`` added to the logits of each key, or ``None``.

    Returns:
        ``[T, H, d]``; the rows' sums of exponentials as logarithms, fp32: ``[H, T]`` or, padded,
        ``[B, H, n]``; whether they are packed.
    """
    if bias is None and q.dtype in HALF and q.shape[-1] % 8 == 0:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn

        ends = layout.ends(q.device)
        longest, sums = layout.longest, AuxRequest(lse=True)
        out, lse = varlen_attn(q, k, v, ends, ends, longest, longest, return_aux=sums)
        return out, lse if lse.shape[0] == q.shape[1] else lse.T, True
    rows = layout.rows(q.device)
    valid = rows < layout.total
    rows = rows.clamp(max=layout.total - 1)
    mask = torch.where(valid, 0.0, -torch.inf)
    if bias is not None:
        mask = mask + bias[rows]
    queries, keys, values = (t[rows].transpose(1, 2) for t in (q, k, v))
    result, lse = _efficient(queries, keys, values, mask)
    # Padding is written to a row behind the last, so that nothing has to be counted first.
    out = q.new_empty(layout.total + 1, *q.shape[1:])
    out[torch.where(valid, rows, layout.total)] = result.transpose(1, 2)
    return out[:-1], lse, False


def _efficient(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Memory-efficient attention and its row sums. ``q`` is ``[B, H, N, d]``, mask ``[B, N]``."""
    bias = None
    if mask is not None:
        images, heads, count, _ = q.shape
        # The kernel reads rows of the mask in blocks of 16 bytes.
        room = mask.new_zeros(images, -(-count // 8) * 8, dtype=q.dtype)
        room[:, :count] = mask
        bias = room[:, None, None, :count].expand(images, heads, count, count)
    found = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)
    return found[0], found[1]


def _dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Fused attention of images of one length, and its row sums ``[B, H, n >= N]``: from the
    kernel that PyTorch itself would choose, so that the unpruned model has no faster one."""
    if mask is None and q.dtype in HALF:
        aten = torch.ops.aten
        if torch._fused_sdp_choice(q, k, v) == SDPBackend.CUDNN_ATTENTION.value:
            found = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)
            return found[0], found[1].flatten(2)
        found = aten._scaled_dot_product_flash_attention(q, k, v)
        return found[0], found[1]
    return _efficient(q, k, v, mask)


def attend_with_mean_maps(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None, watched: list[int]
) -> tuple[Tensor, Tensor]:
    """See `asap_eval.hosts.attention.attend_with_maps`."""
    from asap_eval.kernels.mean_map import mean_maps

    tokens_q, tokens_k, tokens_v = map(by_token, (q, k, v))
    if layout.dense:
        mask = None if bias is None else bias.view(len(layout.lengths), -1)
        out, lse = _dense(q, k, v, mask)
        packed = False
    else:
        found, lse, packed = attend_packed(tokens_q, tokens_k, tokens_v, layout, bias)
        out = layout.shaped(found).transpose(1, 2)
    longest = max(layout.lengths[i] for i in watched)
    size = room(longest, q.device)
    maps = q.new_empty(len(watched), size, size, dtype=torch.float32)
    starts, lengths = layout.places(q.device)
    images = to_device(watched, q.device)
    mean_maps(tokens_q, tokens_k, bias, lse, packed, images, starts, lengths, maps)
    return out, maps[:, :longest, :longest]
