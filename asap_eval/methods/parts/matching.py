"""Bipartite matching of tokens, shared by methods that merge; tensors only, no padding.

All images of a batch have N tokens, of which the first ``prefix`` (class, distillation and register
tokens) are protected: they stay at the front in their order and nothing is merged into them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.kernels.nearest import nearest, paired


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


def match(keys: Tensor, r: int, prefix: int) -> Tensor:
    """Where tokens go when the ``r`` most similar pairs are merged.

    Tokens at even positions (set A) each look for the nearest token at an odd position (set B) by
    the cosine of their head-mean keys; the ``r`` of A with the best partner are merged into it,
    several into one if so chosen.

    Args:
        keys: ``[b, H, N, d]`` by which tokens are compared, in any float type; compared in fp32
            (fp64 stays).
        r: tokens to remove; more than `removable` allows is cut to that.
        prefix: protected tokens at the front.

    Returns:
        ``[b, N]`` int64 ``group`` of a `Reduction`: prefix, then what is left of A, then B. A is in
        its order, or by falling similarity where there is no prefix at all.
    """
    images, _, tokens, _ = keys.shape
    r = removable(tokens, prefix, r)
    place = torch.arange(tokens, device=keys.device)
    if r == 0:
        return place.repeat(images, 1)
    a, b = (place[first::2].contiguous().expand(images, -1) for first in (0, 1))
    best, partner = nearest(keys, a, b, protected=((prefix + 1) // 2, prefix // 2))
    return paired(best, partner, r, prefix, tokens)
