"""Choosing a fixed number of patches, by rules that several methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from asap_eval.errors import BadValueError

ROUND = 8
"""Patches that `thin_by_rounds` drops in a round, as in VisPruner's own code."""


def check_count(method: str, k: int, patches: int) -> None:
    """Raise `BadValueError` where ``k`` patches of a crop cannot be kept."""
    if not 1 <= k <= patches:
        raise BadValueError(f"{method}: k={k} of {patches} patches: give 1 to {patches}.")


def largest_remainders(sizes: list[int], total: int) -> list[int]:
    """Whole shares of ``total`` in proportion to ``sizes``; ties go to the earlier entry."""
    whole = sum(sizes)
    # In integers: remainders that tie must tie exactly.
    shares, remainders = zip(*(divmod(size * total, whole) for size in sizes), strict=True)
    order = sorted(range(len(sizes)), key=lambda i: (-remainders[i], i))
    extra = set(order[: total - sum(shares)])
    return [share + (i in extra) for i, share in enumerate(shares)]


def even_ranks(size: int, count: int) -> list[int]:
    """``count`` ranks from 0 to ``size - 1`` at even spacing, halves to the even rank."""
    # A quotient of integers: torch's and numpy's linspace miss exact halves by a rounding error.
    return [round(rank * (size - 1) / max(count - 1, 1)) for rank in range(count)]


def spread(mask: Tensor, bins: Tensor, distance: Tensor, count: int) -> Tensor:
    """Stride sampling (ASAP, Algorithm 1, stage 5): every bin keeps its share, evenly by distance.

    Args:
        mask: ``[P]`` bool, candidates. bins: ``[P]`` bin of each patch.
        distance: ``[P]``. count: patches to keep, fewer than the candidates.

    Returns:
        ``[P]`` bool with ``count`` patches.
    """
    keep = torch.zeros_like(mask)
    members = [(mask & (bins == b)).nonzero().flatten() for b in bins[mask].unique()]
    shares = largest_remainders([len(m) for m in members], count)
    for patches, share in zip(members, shares, strict=True):
        by_distance = patches[distance[patches].argsort(stable=True)]
        keep[by_distance[even_ranks(len(patches), share)]] = True
    return keep


def thin_by_pairs(
    mask: Tensor, importance: Tensor, rows: Tensor, count: int, important: int
) -> Tensor:
    """Hybrid selection (ASAP, Algorithm 2): the most important, then one of each closest pair.

    Args:
        mask: ``[P]`` bool, candidates. importance: ``[P]``, larger stays. rows: ``[P, N]`` whose
            distance tells which patches repeat each other. count: patches to keep.
        important: how many of them are kept for their importance alone.

    Returns:
        ``[P]`` bool with ``count`` patches.
    """
    keep = torch.zeros_like(mask)
    candidates = mask.nonzero().flatten()
    first = candidates[importance[candidates].argsort(descending=True, stable=True)[:important]]
    keep[first] = True
    if important >= count:
        return keep
    rest = (mask & ~keep).nonzero().flatten()
    surplus = len(rest) - (count - important)
    while surplus > 0:
        # Halves by even and odd position; when one is used up, what is left is split anew.
        even, odd = rest[0::2], rest[1::2]
        distance = torch.cdist(
            rows[even], rows[odd], compute_mode="donot_use_mm_for_euclid_dist"
        ).cpu()
        gone: set[int] = set()
        alive = [len(even), len(odd)]
        for flat in distance.flatten().argsort(stable=True).tolist():
            if surplus == 0 or 0 in alive:
                break
            a, b = int(even[flat // len(odd)]), int(odd[flat % len(odd)])
            if a in gone or b in gone:
                continue
            drop_even = bool(importance[a] < importance[b])
            gone.add(a if drop_even else b)
            alive[0 if drop_even else 1] -= 1
            surplus -= 1
        rest = torch.tensor([i for i in rest.tolist() if i not in gone], device=mask.device)
    keep[rest] = True
    return keep


def thin_by_rounds(
    score: Tensor, similarity: Tensor, count: int, important: int
) -> tuple[Tensor, Tensor]:
    """VisPruner's rule: the most important, then the others less near-duplicates, round by round.

    The others are taken by falling score. In each round those at even positions look for the
    nearest at an odd position; those with the best partner are dropped, `ROUND` at a time, the rest
    of them are put before the odd ones by falling similarity, and this order decides who meets whom
    next.

    Args:
        score: ``[b, P]``, larger is more important. similarity: ``[b, P, P]``; only its order
            counts. count: patches to keep. important: how many of them for their score.

    Returns:
        ``[b, P]`` bool masks: the important patches, and the diverse ones among the others.
    """
    order = score.argsort(dim=1, descending=True, stable=True)
    diverse = count - important
    rest = order[:, important:]
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


def most_attended(attention: Tensor, image: Tensor, keep: Tensor) -> Tensor:
    """``[b, N]`` bool, the ``keep [b]`` image tokens with the most attention.

    Args:
        attention: ``[b, N]``. image: ``[b, N]`` bool.
    """
    scores = attention.masked_fill(~image, -torch.inf)
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < keep[:, None]) & image
