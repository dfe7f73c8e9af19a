"""SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference (Zhang et
al., arXiv 2410.04417), version 1.5 of the authors' code.

Words of the prompt that fit the image best judge its tokens: in three layers of the language model
the image tokens they attend to most go on, and some of the others are clustered into a few.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asap_eval.tokens import DROPPED

CENTRE_NOISE = 1e-6
"""The authors break ties of the density with uniform noise below this."""


def raters(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Words that judge the image tokens: those that image tokens attend to more than the mean.

    Args:
        image: ``[n, D]`` image tokens. text: ``[T, D]`` embedded words after them.

    Returns:
        ``[T]`` bool, and ``[T]`` the share of the image tokens' attention that each word gets.
    """
    score = (image.float() @ text.float().mT).softmax(1).mean(0)
    return score > score.mean(), score


def cluster(x: Tensor, centres: int, noise: Tensor | float = 0.0) -> Tensor:
    """``[p]`` cluster of each token, by density peaks.

    Args:
        x: ``[p, D]``. centres: number of clusters, at most p; cluster 0 has the highest peak.
        noise: ``[p]`` added to the densities.
    """
    x = x.float()
    # Not by the matrix product that cdist prefers for large inputs: it loses small distances.
    apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[1] ** 0.5
    nearest = apart.topk(centres, dim=1, largest=False).values
    density = (-nearest.square().mean(1)).exp() + noise
    denser = density[None] > density[:, None]
    to_denser = torch.where(denser, apart, apart.max()).amin(1)
    peaks = (to_denser * density).argsort(descending=True, stable=True)[:centres]
    member = apart[peaks].argmin(0)
    member[peaks] = torch.arange(centres, device=x.device)
    return member


def sparsify(
    score: Tensor, features: Tensor, keep: int, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Where one sample's image tokens go in one layer: kept ones in their order, then clusters.

    Args:
        score: ``[n]``, larger is kept. features: ``[n, D]`` the layer's output.
        keep: tokens kept; at least one is not. noise: ``[n]`` of `cluster`, by place among the
            recycled tokens.

    Returns:
        ``[n]`` slot, -1 = dropped, and ``[n]`` weight.
    """
    order = score.argsort(descending=True, stable=True)
    keep = min(keep, len(order) - 1)
    kept, pruned = order[:keep].sort().values, order[keep:]
    recycled = pruned[: int(0.3 * len(pruned)) + 1]
    centres = len(recycled) // 10 + 1
    member = cluster(features[recycled], centres, 0.0 if noise is None else noise[: len(recycled)])
    slot = torch.full_like(order, DROPPED)
    slot[kept] = torch.arange(keep, device=slot.device)
    slot[recycled] = keep + member
    weight = torch.ones_like(score)
    weight[recycled] = 1 / (member.bincount(minlength=centres).to(weight.dtype)[member] + 1e-6)
    return slot, weight
