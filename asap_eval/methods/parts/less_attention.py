"""LaViT's less-attention layer (arXiv 2406.00427), as a formula and as work; no reducer.

LaViT is an architecture trained from scratch: in its later layers the scores of attention are made
from those of the layer before, by two linear maps over tokens, in place of queries and keys. A
reading of its text, not its authors' code. What it saves and costs in a plain ViT says why it
is no method here: at 197 tokens it costs more than it saves in DeiT-Tiny and DeiT-Small.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import linear


def less_attention(
    scores: Tensor, theta: tuple[Tensor, Tensor], psi: tuple[Tensor, Tensor]
) -> Tensor:
    """``[B, H, N, N]`` scores before softmax from those of the layer before.

    Args:
        theta, psi: weight ``[N, N]`` and bias ``[N]``, shared by heads: theta maps rows, psi then
            columns.
    """
    return linear(linear(scores, *theta).mT, *psi).mT


def saved_macs(tokens: int, width: int) -> int:
    """MACs of a block's queries and keys and of their product."""
    return 2 * tokens * width**2 + tokens**2 * width


def spent_macs(tokens: int, heads: int) -> int:
    """MACs of the two maps, head by head."""
    return 2 * heads * tokens**3


def pays_below(heads: int, head_width: int = 64) -> float:
    """Tokens below which a block saves more than it spends."""
    # 2 H n^2 = 2 w^2 + n w with w = H d: a quadratic equation in n.
    return (head_width + math.sqrt(head_width**2 + 16 * heads * head_width**2)) / 4
