"""Bottom-up (agglomerative) clustering of a batch of distance matrices; tensors only."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Linkage = Literal["single", "complete", "average"]
"""Distance of two clusters: the least, the largest, or the mean of all their pairs (UPGMA)."""


def agglomerate(distance: Tensor, clusters: int, linkage: Linkage) -> Tensor:
    """Join the two nearest clusters of each image until so many are left.

    Equally near pairs are joined in the order of their first members.

    Args:
        distance: ``[b, n, n]`` symmetric; computed with in fp64.
        clusters: from 1 to n.

    Returns:
        ``[b, n]`` cluster of each point, numbered by its first member.
    """
    images, count = distance.shape[:2]
    apart = distance.double().clone()
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    size = apart.new_ones(images, count)
    head = torch.arange(count, device=apart.device).repeat(images, 1)
    for _ in range(count - clusters):
        nearest = apart.flatten(1).argmin(1)
        one, other = nearest // count, nearest % count
        first, second = torch.minimum(one, other)[:, None], torch.maximum(one, other)[:, None]
        a, b = (apart.take_along_dim(at[..., None], 1)[:, 0] for at in (first, second))
        if linkage == "single":
            joined = torch.minimum(a, b)
        elif linkage == "complete":
            joined = torch.maximum(a, b)
        else:
            weight_a, weight_b = size.gather(1, first), size.gather(1, second)
            joined = (weight_a * a + weight_b * b) / (weight_a + weight_b)
        size.scatter_add_(1, first, size.gather(1, second))
        joined.scatter_(1, first, torch.inf)
        _set(apart, first, joined)
        _set(apart, second, torch.full_like(joined, torch.inf))
        head = torch.where(head == second, first, head)
    is_head = head == torch.arange(count, device=head.device)
    return (is_head.long().cumsum(1) - 1).gather(1, head)


def _set(apart: Tensor, at: Tensor, values: Tensor) -> None:
    """A row and the column of the same number, in every image. at: ``[b, 1]``."""
    apart.scatter_(1, at[..., None].expand(-1, -1, apart.shape[1]), values[:, None])
    apart.scatter_(2, at[..., None].expand(-1, apart.shape[1], -1), values[..., None])
