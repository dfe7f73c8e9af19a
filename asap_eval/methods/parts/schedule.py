"""Tokens removed block by block, where one number says it for all blocks."""

from __future__ import annotations

import math


def mixed(r: float, depth: int) -> list[int]:
    """With ``r = n + f`` the first ``round(f L)`` blocks remove ``n + 1``, the others ``n``."""
    more = round((r - math.floor(r)) * depth)
    return [math.floor(r) + (block < more) for block in range(depth)]
