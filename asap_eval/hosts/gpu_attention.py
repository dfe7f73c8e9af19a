"""Attention on a GPU: packed sequences, and head-mean maps beside fused attention.

Everything here is PyTorch's own fused attention, called so that it also gives the logarithm of its
row sums; from these `asap_eval.kernels.mean_map` makes maps.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention
from torch.nn.attention import SDPBackend

from asap_eval.hosts.layout import Layout, by_token
from asap_eval.kernels.walk import room
from asap_eval.transfer import to_device

GIVE_SUMS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
)
"""Kernels of PyTorch that hand out the logarithms of their rows' sums."""

TRITON_NEEDS = (8, 0)
"""Compute capability of the oldest GPUs that Triton compiles for: Ampere."""


@cache
def map_kernel(device: torch.device) -> str:
    """What makes head-mean maps on this GPU, for a record."""
    try:
        import triton
    except ImportError:
        return "torch (no Triton)"
    found = torch.cuda.get_device_capability(device)
    if found < TRITON_NEEDS:
        needed, here = (".".join(map(str, version)) for version in (TRITON_NEEDS, found))
        return f"torch (Triton needs compute capability {needed}, this GPU has {here})"
    return f"Triton {triton.__version__}"


def fused(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None
) -> SDPBackend | None:
    """The kernel of PyTorch that computes this attention together with its row sums.

    PyTorch judges: by the card, the dtype, the width of a head, and what the user switched off.

    Args:
        q, k, v, layout, bias: as in `asap_eval.hosts.attention.attend`, on a GPU.

    Returns:
        For images of one length the kernel that the unpruned model has; ``FLASH_ATTENTION`` for
        packed sequences; otherwise ``EFFICIENT_ATTENTION``. ``None`` = products and softmax apart.
    """
    if layout.dense and bias is None:
        choice = torch._fused_sdp_choice(q, k, v)
        return next((kernel for kernel in GIVE_SUMS if kernel.value == choice), None)
    given = SDPAParams(q, k, v, None, 0.0, False, False)
    if bias is None and can_use_flash_attention(given):
        return SDPBackend.FLASH_ATTENTION
    return SDPBackend.EFFICIENT_ATTENTION if can_use_efficient_attention(given) else None


def mapped_by(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None
) -> SDPBackend | None:
    """The kernel whose row sums `attend_with_mean_maps` can use. ``None`` where Triton is not there
    for this GPU, or no kernel gives row sums."""
    if q.shape[-1] % 8 or not map_kernel(q.device).startswith("Triton"):
        return None
    return fused(q, k, v, layout, bias)


def attend_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    bias: Tensor | None,
    kernel: SDPBackend,
) -> tuple[Tensor, Tensor, bool]:
    """Fused attention of every image over its own tokens, lengths may differ.

    16 bit without bias runs packed. fp32 and biases, which PyTorch offers for blocks alone, run in
    one padded call: launches cost more than the padding of attention.

    Args:
        q, k, v: ``[T, H, d]``. bias: ``[T]`` added to the logits of each key, or ``None``.
        kernel: what `fused` says.

    Returns:
        ``[T, H, d]``; the rows' sums of exponentials as logarithms, fp32: ``[H, T]`` or, padded,
        ``[B, H, n]``; whether they are packed.
    """
    if kernel == SDPBackend.FLASH_ATTENTION:
        ends, longest = layout.ends(q.device), layout.longest
        # Not `varlen_attn`: its later versions take cuDNN on Hopper, which keeps a graph for every
        # total length it ever saw, and reduced batches seldom have one twice.
        found = torch.ops.aten._flash_attention_forward(
            q, k, v, ends, ends, longest, longest, 0.0, False, False
        )
        return found[0], found[1], True
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


def _dense(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kernel: SDPBackend
) -> tuple[Tensor, Tensor]:
    """Fused attention of images of one length, and its row sums ``[B, H, n >= N]``."""
    aten = torch.ops.aten
    if kernel == SDPBackend.CUDNN_ATTENTION:
        found = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)
        return found[0], found[1].flatten(2)
    if kernel == SDPBackend.FLASH_ATTENTION:
        found = aten._scaled_dot_product_flash_attention(q, k, v)
        return found[0], found[1]
    return _efficient(q, k, v, mask)


def attend_with_mean_maps(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    bias: Tensor | None,
    watched: list[int],
    kernel: SDPBackend,
) -> tuple[Tensor, Tensor]:
    """See `asap_eval.hosts.attention.attend_with_maps`; ``kernel`` is what `mapped_by` says."""
    from asap_eval.kernels.mean_map import mean_maps

    tokens_q, tokens_k, tokens_v = map(by_token, (q, k, v))
    if layout.dense:
        mask = None if bias is None else bias.view(len(layout.lengths), -1)
        out, lse = _dense(q, k, v, mask, kernel)
        packed = False
    else:
        found, lse, packed = attend_packed(tokens_q, tokens_k, tokens_v, layout, bias, kernel)
        out = layout.shaped(found).transpose(1, 2)
    longest = max(layout.lengths[i] for i in watched)
    size = room(longest, q.device)
    maps = q.new_empty(len(watched), size, size, dtype=torch.float32)
    starts, lengths = layout.places(q.device)
    images = to_device(watched, q.device)
    mean_maps(tokens_q, tokens_k, bias, lse, packed, images, starts, lengths, maps)
    return out, maps[:, :longest, :longest]
