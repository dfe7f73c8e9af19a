"""Which patches the tokens of a batch hold, and features of patches from those of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError


@dataclass(frozen=True)
class TokenMap:
    """Tokens and patches of a batch after one block.

    Attributes:
        block: from 1. prefix: class, distillation and register tokens in front.
        grid: patches down and across that the model was built for.
        size: ``[B, N]`` fp32, patches folded into each token; 0 = padding.
        source: ``[B, P]`` int64, slot (prefix included) of each patch of the grid; -1 = dropped.
        changed: whether tokens of the batch were removed or merged.
    """

    block: int
    prefix: int
    grid: tuple[int, int]
    size: Tensor
    source: Tensor
    changed: bool

    @property
    def mask(self) -> Tensor:
        """``[B, N]`` bool, tokens that are no padding."""
        return self.size > 0

    def fits(self, tokens: Tensor) -> bool:
        """Whether a tensor has this many images and tokens, with the prefix or without."""
        images, longest = self.size.shape
        return (
            tokens.dim() == 3
            and len(tokens) == images
            and tokens.shape[1] in (longest, longest - self.prefix)
        )

    def unmerge(self, tokens: Tensor, fill: float = 0.0) -> Tensor:
        """``[B, gh, gw, D]`` from ``[B, N, D]``, with the prefix in front or without: see
        `Trace.unmerge`.

        Raises:
            BadValueError: they are not so many images and tokens.
        """
        if not self.fits(tokens):
            images, longest = self.size.shape
            raise BadValueError(
                f"These tokens are {[*tokens.shape]}; after block {self.block} there are "
                f"[{images}, {longest}, D], or [{images}, {longest - self.prefix}, D] without the "
                "prefix. Give block= for the tokens of another block."
            )
        count = tokens.shape[1]
        first = self.size.shape[1] - count
        # Dropped patches read a row behind the last, which holds `fill`.
        rows = torch.where(self.source < 0, count, self.source - first)
        padded = F.pad(tokens, (0, 0, 0, 1), value=fill)
        found = padded.take_along_dim(rows[..., None], 1)
        return found.unflatten(1, self.grid)
