"""VisPruner: Beyond Text-Visual Attention, Exploiting Visual Cues for Effective Token Pruning in
VLMs (Zhang et al., arXiv 2412.01818).

Half of the tokens handed to the language model are those that the class token attends to most; the
other half is what is left when near-duplicates are dropped, eight at a time, from all the others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROUND = 8
"""Tokens dropped in a round, as in the authors' code."""


def important_and_diverse(
    score: Tensor, features: Tensor, count: int, ratio: float
) -> tuple[Tensor, Tensor]:
    """``[b, P]`` bool masks: the important patches, and the diverse ones among the others.

    The others are taken by falling score. In each round those at even positions look for the
    nearest at an odd position by cosine; those with the best partner are dropped, the rest of them
    are put before the odd ones by falling similarity, and this order decides who meets whom next.

    Args:
        score: ``[b, P]``, larger is more important. features: ``[b, P, D]``.
        count: patches to keep. ratio: share of them kept for their score, rounded down.
    """
    order = score.argsort(dim=1, descending=True, stable=True)
    important = int(count * ratio)
    diverse = count - important
    rest = order[:, important:]
    # fp64: a near-tie decides who meets whom from then on, and the size of a batch changes the last
    # bits of an fp32 product.
    unit = F.normalize(features.double(), dim=-1)
    similarity = unit @ unit.mT
    while (surplus := rest.shape[1] - diverse) > 0:
        if diverse == 0:
            rest = rest[:, :0]
            break
        even, odd = rest[:, 0::2], rest[:, 1::2]
        pairs = similarity.take_along_dim(even[..., None], 1).take_along_dim(odd[:, None], 2)
        nearest = pairs.amax(2).argsort(dim=1, descending=True, stable=True)
        even = even.gather(1, nearest[:, min(ROUND, surplus) :])
        rest = torch.cat([even, odd], 1)
    none = torch.zeros_like(score, dtype=torch.bool)
    return none.scatter(1, order[:, :important], True), none.scatter(1, rest, True)
