"""Nystroem attention: attention through a few landmark tokens (Lu et al., arXiv 2507.16018).

Letters: B sequences, H heads, N tokens, M landmarks, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

ITERATIONS = 6
"""Steps of the inverse, as in the authors' code. They do not converge where the landmarks'
attention is ill-conditioned; the method is defined with them."""


def farthest_points(x: Tensor, count: int) -> Tensor:
    """``[B, count]`` tokens, each the farthest (L2) from those chosen before it, from token 0 on.

    Args:
        x: ``[B, N, d]``.
    """
    batch = torch.arange(len(x), device=x.device)
    chosen = [torch.zeros_like(batch)]
    nearest = torch.full(x.shape[:2], torch.inf, device=x.device, dtype=x.dtype)
    for _ in range(count - 1):
        distance = (x - x[batch, chosen[-1]][:, None]).square().sum(2)
        nearest = torch.minimum(nearest, distance)
        chosen.append(nearest.argmax(1))
    return torch.stack(chosen, 1)


def attention(q: Tensor, k: Tensor, v: Tensor, index: Tensor) -> Tensor:
    """``[B, H, N, d]`` approximate attention.

    Args:
        q, k, v: ``[B, H, N, d]``. index: ``[B, M]`` landmarks, the same for all heads.
    """
    return scaled_dot_product_attention(q, *landmarks(q, k, v, index))


def landmarks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    bias: Tensor | None = None,
    iterations: int = ITERATIONS,
) -> tuple[Tensor, Tensor]:
    """Keys and values ``[B, H, M, d]`` that stand for all keys and values.

    Args:
        q, k, v, index: as in `attention`.
        bias: ``[B, 1, M, N]`` added to the landmarks' logits, or ``None``.
        iterations: steps of the inverse.
    """
    at = index[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
    queries, keys = q.gather(2, at), k.gather(2, at)
    among = (
        None if bias is None else bias.gather(3, index[:, None, None].expand(*bias.shape[:3], -1))
    )
    inverse = pseudo_inverse(landmark_attention(queries, keys, among), iterations)
    gathered = scaled_dot_product_attention(queries, k, v, attn_mask=bias)
    return keys, (inverse @ gathered.to(inverse.dtype)).to(v.dtype)


def landmark_attention(queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[B, H, M, M]`` attention among the landmarks alone, at least fp32.

    Args:
        bias: ``[B, 1, M, M]`` added to the logits, or ``None``.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    scaled = queries.to(dtype) * queries.shape[-1] ** -0.5
    logits = scaled @ keys.to(dtype).mT
    return (logits if bias is None else logits + bias).softmax(-1)


def pseudo_inverse(a: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """``[..., M, M]`` the iterative inverse, not converged where ``a`` is ill-conditioned."""
    eye = torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
    z = a.mT / a.sum(-2).amax(-1)[..., None, None]
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return z
