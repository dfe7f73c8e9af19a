"""Choosing tokens one after another, each by what those before it left to gain.

Cosines are taken in fp64: near-ties decide what follows, and the size of a batch changes the last
bits of an fp32 product. A method decides the gain; the loop and the ties are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def cosines(x: Tensor) -> Tensor:
    """``[..., n, n]`` fp64 cosines of all pairs of ``x [..., n, D]``: n n D products."""
    unit = F.normalize(x.double(), dim=-1)
    return unit @ unit.mT


def one_by_one(first: Tensor, gain: Callable[[Tensor], Tensor], count: int) -> Tensor:
    """``[b, count]`` tokens in the order of choice; ties go to the lower number.

    Args:
        first: ``[b, n]`` what the first choice goes by; the largest is taken.
        gain: asked after each choice with the tokens taken last, ``[b]``: ``[b, n]`` of the next
            choice. A token is taken once, whatever its gain.
        count: at most n.
    """
    score, order = first, []
    left = torch.ones_like(first, dtype=torch.bool)
    for _ in range(count):
        chosen = score.masked_fill(~left, -torch.inf).argmax(1)
        left = left.scatter(1, chosen[:, None], False)
        order.append(chosen)
        if len(order) < count:
            score = gain(chosen)
    return torch.stack(order, 1) if order else first.new_empty((len(first), 0), dtype=torch.long)


def row_of(matrix: Tensor, chosen: Tensor) -> Tensor:
    """``[b, n]`` of ``matrix [b, n, n]``: the row of each image's token ``chosen [b]``."""
    return matrix.take_along_dim(chosen[:, None, None], 1)[:, 0]


def chosen_mask(order: Tensor, tokens: int) -> Tensor:
    """``[b, tokens]`` bool of the tokens in ``order [b, count]``."""
    none = torch.zeros(len(order), tokens, dtype=torch.bool, device=order.device)
    return none.scatter(1, order, True)
