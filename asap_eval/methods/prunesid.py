"""PruneSID: Prune Redundancy, Preserve Essence: Vision Token Compression in VLMs via Synergistic
Importance-Diversity (Fang et al., arXiv 2603.09480).

Tokens are grouped by the principal direction they load on most; in each group the one that the
class token attends to most is picked and those too similar to it are put last, again and again.
Each group hands on a quota, the same total for every image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.packing import Crops
from asap_eval.tokens import DROPPED, Reduction


@register(
    "prunesid",
    Card(
        paper="Prune Redundancy, Preserve Essence: Vision Token Compression in VLMs via "
        "Synergistic Importance-Diversity, arXiv 2603.09480",
        licence="see repository ZhengyaoFang/PruneSID",
        training="training-free",
        knob="k",
        knob_meaning="tokens handed on per crop, class token included, from 4 to the patches + 1",
        fixed_count=True,
        deviations="exact decomposition instead of a random one (theirs keeps other tokens for "
        "every seed); decompositions and cosines in fp64; with every patch kept their order stays; "
        "tokens of tiles stand where their patches are (packing=authors: where the released code "
        "puts them)",
    ),
)
@dataclass
class PruneSID(Reducer):
    """Hand on the class token and, group by group, patches that are attended and not redundant.

    Order: class token, then the groups in turn, in each the picks by falling attention. Of several
    crops: the base crop; the tiles' patches in raster order of the stitched grid, padding included
    and without newlines; the tiles' class tokens.

    Attributes:
        k: tokens handed on per crop, class token included; k // 4 groups are made.
        packing: of several crops: ``corrected`` as above; ``authors``: in each tile the released
            code sorts positions but not features, so that most patches of a tile stand in another's
            place; ``spatial``: the model's own, without padding and with newlines.
    """

    k: int = 64
    packing: Literal["corrected", "authors", "spatial"] = "corrected"
    site = "output"
    hands_cls = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW, Need.FEATURES})

    def check(self, batch: Batch) -> None:
        if not 4 <= self.k <= batch.patches + 1:
            raise BadValueError(
                f"prunesid: k={self.k} tokens of {batch.patches} patches and a class token: give 4 "
                f"to {batch.patches + 1}."
            )

    def decide(self, view: View, state: None) -> Reduction | None:
        features, prefix = view.features[:, view.prefix :], view.prefix
        if self.k > features.shape[1]:
            return None
        score = view.cls_row.sum(1)[:, prefix:]
        place = select(groups_of(loadings(features, self.k // 4)), score, features, self.k)
        front = torch.arange(prefix, device=place.device).expand(len(place), -1)
        return Reduction(torch.cat([front, torch.where(place < 0, DROPPED, prefix + place)], 1))

    def macs(self, view: View, state: None) -> int:
        """Both matrices of all pairs of patches; the decomposition is no product."""
        patches, width = view.size.shape[1] - view.prefix, view.features.shape[-1]
        return 0 if self.k > patches else 2 * patches**2 * width

    def pack(self, crops: Crops) -> Tensor | None:
        if self.packing == "spatial":
            return None
        tile, cls = crops.crop > 0, crops.slot == 0
        patches = crops.raster(tile & ~cls)
        if self.packing == "authors":
            # The n-th patch of a tile in its own order stands where its n-th by position should.
            of_tile = crops.crop[patches]
            patches = (tile & ~cls).nonzero().flatten()[of_tile.argsort(stable=True).argsort()]
        base, classes = (mask.nonzero().flatten() for mask in (~tile, tile & cls))
        return torch.cat([base, patches, classes])

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 4, batch.patches + 1


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
