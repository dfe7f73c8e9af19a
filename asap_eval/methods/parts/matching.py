"""Bipartite matching of tokens, shared by methods that merge; tensors only, no padding.

All images of a batch have N tokens, of which the first ``prefix`` (class, distillation and register
tokens) are protected: they stay at the front in their order and nothing is merged into them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def removable(tokens: int, prefix: int, r: int) -> int:
    """How many of ``tokens`` one matching can remove when ``r`` are wanted: at most half of the
    unprotected ones, at least 0."""
    return max(0, min(r, (tokens - prefix) // 2))


def match_macs(tokens: int, width: int) -> int:
    """MACs of the similarities of one image: even positions x odd positions x ``width``."""
    return (tokens + 1) // 2 * (tokens // 2) * width


def similarities(metric: Tensor) -> Tensor:
    """``[b, n, n]`` cosines of ``[b, n, d]``."""
    unit = F.normalize(metric, dim=-1)
    return unit @ unit.mT


def members(group: Tensor) -> Tensor:
    """``[b, N]`` tokens that go into each slot, 0 behind the last; ``group`` is ``[b, N]``."""
    return torch.zeros_like(group).scatter_add_(1, group, torch.ones_like(group))


def mean_over_heads(keys: Tensor) -> Tensor:
    """``[b, N, d]`` from ``[b, H, N, d]``, in fp32 (fp64 stays): a mean rounded to 16 bits is moved
    by the last bit of its keys, and near-ties with it."""
    return keys.to(torch.promote_types(keys.dtype, torch.float32)).mean(1)


def match(metric: Tensor, r: int, prefix: int) -> Tensor:
    """Where tokens go when the ``r`` most similar pairs are merged.

    Tokens at even positions (set A) each look for the nearest token at an odd position (set B) by
    cosine; the ``r`` of A with the best partner are merged into it, several into one if so chosen.

    Args:
        metric: ``[b, N, d]`` by which tokens are compared, in any float type; compared in fp32
            (fp64 stays).
        r: tokens to remove; more than `removable` allows is cut to that.
        prefix: protected tokens at the front.

    Returns:
        ``[b, N]`` int64 ``group`` of a `Reduction`: prefix, then what is left of A, then B. A is in
        its order, or by falling similarity where there is no prefix at all.
    """
    images, tokens = metric.shape[:2]
    r = removable(tokens, prefix, r)
    places = torch.arange(tokens, device=metric.device)
    if r == 0:
        return places.repeat(images, 1)
    unit = F.normalize(metric.to(torch.promote_types(metric.dtype, torch.float32)), dim=-1)
    scores = unit[:, 0::2] @ unit[:, 1::2].mT
    even, odd = (prefix + 1) // 2, prefix // 2  # protected tokens in A and in B
    scores[:, :even] = -torch.inf
    scores[:, :, :odd] = -torch.inf
    best, partner = scores.max(-1)
    order = best.argsort(dim=1, descending=True, stable=True)
    merged, left = order[:, :r], order[:, r:]
    if prefix:
        left = left.sort(dim=1).values

    # Slots of `left` and of B: the prefix keeps its places, the others follow, A before B.
    of_left = torch.cat([places[:prefix:2], prefix + places[: left.shape[1] - even]])
    after_a = prefix + left.shape[1] - even
    of_b = torch.cat([places[1:prefix:2], after_a + places[: tokens // 2 - odd]])
    group = places.repeat(images, 1)
    of_a = group[:, 0::2]
    of_a.scatter_(1, left, of_left.expand(images, -1))
    of_a.scatter_(1, merged, of_b[partner.gather(1, merged)])
    group[:, 1::2] = of_b
    return group
