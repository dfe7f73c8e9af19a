"""PruneSID: Prune Redundancy, Preserve Essence: Vision Token Compression in VLMs via Synergistic
Importance-Diversity (Fang et al., arXiv 2603.09480).

Tokens are grouped by the principal direction they load on most; in each group the one that the
class token attends to most is picked and those too similar to it are put last, again and again.
Each group hands on a quota, the same total for every image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.tokens import DROPPED


def loadings(features: Tensor, count: int) -> Tensor:
    """``[b, P, count]`` leading right singular vectors of the patches as variables, exact.

    The channels are the samples, squashed by a sigmoid and centred; fp64 throughout, so that groups
    do not depend on the size of a batch.

    Args:
        features: ``[b, P, D]``.
    """
    x = features.float().sigmoid().double()
    centred = x - x.mean(2, keepdim=True)
    # Eigenvectors of the patches' Gram matrix, by rising eigenvalue.
    return torch.linalg.eigh(centred @ centred.mT).eigenvectors[:, :, -count:].flip(2)


def groups_of(loadings: Tensor) -> Tensor:
    """``[b, P]`` the direction each patch loads on most, from ``[b, P, g]``."""
    return loadings.abs().argmax(2)


def similarities(features: Tensor) -> tuple[Tensor, Tensor]:
    """``[b, P, P]`` cosines of the patches, and ``[b]`` their mean over pairs; fp64."""
    unit = F.normalize(features.double(), dim=-1)
    cosine = unit @ unit.mT
    above = torch.ones_like(cosine[0], dtype=torch.bool).triu(1)
    return cosine, cosine[:, above].mean(1)


def suppress(group: Tensor, score: Tensor, cosine: Tensor, threshold: Tensor) -> Tensor:
    """``[b, P]`` bool, the patches picked in their group: greedy non-maximum suppression.

    Args:
        group: ``[b, P]``. score: ``[b, P]``, larger is picked first. cosine: ``[b, P, P]``.
        threshold: ``[b]``; a patch more similar than this to a pick of its group is not picked.
    """
    near = (cosine > threshold[:, None, None]) & (group[:, :, None] == group[:, None])
    near.diagonal(dim1=1, dim2=2).fill_(False)
    order = score.argsort(dim=1, descending=True, stable=True)
    # By falling score: entry [i, j] says that j, if picked, suppresses i.
    near = near.take_along_dim(order[:, :, None], 1).take_along_dim(order[:, None], 2)
    blocks = near.tril(-1)
    # A patch is decided as soon as all that could suppress it are: at the latest after P rounds.
    picked = torch.zeros_like(group, dtype=torch.bool)
    undecided = ~picked
    while bool(undecided.any()):
        waits = (blocks & undecided[:, None]).any(2)
        hit = (blocks & picked[:, None]).any(2)
        picked |= undecided & ~waits & ~hit
        undecided &= waits & ~hit
    return torch.zeros_like(picked).scatter(1, order, picked)


def quotas(size: list[int], picked: list[int], budget: int) -> list[int]:
    """How many patches each group hands on; with the class token they make ``budget``.

    Args:
        size, picked: patches and picked patches of each group.
        budget: class token included, at most the number of patches.
    """
    lower = [min(1, s) for s in size]
    cap = 5 * math.ceil(budget / 64)
    upper = [min(cap, s, p) for s, p in zip(size, picked, strict=True)]
    while sum(upper) < budget:
        upper = [min(u + 1, s) for u, s in zip(upper, size, strict=True)]
    spare = max(0, budget - 1 - sum(lower))
    # fp32 and halves to even, as torch's cumulative sum and round in the authors' code.
    share = torch.tensor(picked, dtype=torch.float32) / sum(picked)
    ends = [0, *(share.cumsum(0) * spare).round().long().tolist()]
    parts = zip(lower, upper, ends[1:], ends, strict=False)
    quota = [min(low + end - start, up) for low, up, end, start in parts]
    missing = spare + sum(lower) - sum(quota)
    for g in sorted(range(len(size)), key=lambda g: -picked[g]):
        more = min(missing, upper[g] - quota[g])
        if more > 0:
            quota[g] += more
            missing -= more
    return quota


def ranking(group: Tensor, score: Tensor, picked: Tensor) -> Tensor:
    """``[b, P]`` patches group by group; in a group the picked ones first, each part by score."""
    order = score.argsort(dim=1, descending=True, stable=True)
    for key in (~picked, group):
        order = order.gather(1, key.gather(1, order).long().argsort(dim=1, stable=True))
    return order


def select(group: Tensor, score: Tensor, features: Tensor, budget: int) -> Tensor:
    """``[b, P]`` place of each patch handed on, from 0, group by group; -1 = dropped.

    Args:
        group: ``[b, P]`` (see `groups_of`). score: ``[b, P]``. features: ``[b, P, D]``.
        budget: tokens handed on, class token included.
    """
    cosine, mean = similarities(features)
    picked = suppress(group, score, cosine, mean * (budget / 32))
    order = ranking(group, score, picked)
    count = budget // 4
    place = torch.full_like(group, DROPPED)
    for image in range(len(group)):
        size = group[image].bincount(minlength=count).tolist()
        chosen = group[image][picked[image]].bincount(minlength=count).tolist()
        quota = quotas(size, chosen, budget)
        starts = [sum(size[:g]) for g in range(count)]
        taken = torch.cat([order[image, at : at + q] for at, q in zip(starts, quota, strict=True)])
        place[image, taken] = torch.arange(len(taken), device=group.device)
    return place
