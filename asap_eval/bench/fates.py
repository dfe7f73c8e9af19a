"""What became of every patch of an image: kept, pooled or dropped."""

from __future__ import annotations

import torch
from torch import Tensor

FATES = ("kept", "pooled", "dropped")
"""What can happen to a patch, in the order of `fates_of`."""


def fates_of(source: Tensor) -> Tensor:
    """``[B, P]`` the place in `FATES` of each patch, from its slot ``[B, P]`` (-1 = dropped)."""
    gone = source < 0
    slots = source.masked_fill(gone, 0)
    members = torch.zeros(len(source), int(slots.max()) + 1, dtype=torch.long)
    members.scatter_add_(1, slots, (~gone).long())
    shared = members.gather(1, slots) > 1
    return torch.where(gone, FATES.index("dropped"), shared.long())
