"""The numbers of a model that decide its work: MACs follow from them and from token counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

Count = TypeVar("Count", int, Tensor)
"""A count of tokens, or of each image ``[B]``."""


@dataclass(frozen=True)
class BlockGeometry:
    """MACs of one block: linear layers by token, products by pair of tokens.

    Attributes:
        attention_token: MACs per token of the attention's linear layers (q, k, v, projection).
        attention_pair: MACs per pair of tokens of the two products (2 x heads x head width).
        mlp_token: MACs per token of the MLP.
    """

    attention_token: int
    attention_pair: int
    mlp_token: int

    def macs(self, seen: Count, kept: Count) -> Count:
        """MACs with so many tokens at the attention and at the MLP."""
        return self.attention_token * seen + self.attention_pair * seen**2 + self.mlp_token * kept


@dataclass(frozen=True)
class Geometry:
    """A vision tower as its work sees it. MACs: convolutions, linear layers, attention products.

    Attributes:
        family: the host's name for the model. blocks: one entry per block.
        width: D. prefix: class, distillation and register tokens. grid: patches down and across.
        has_cls: whether token 0 is a class token.
        stem_patch_macs: MACs before the blocks, for each patch: a stem of convolutions.
        head_macs: MACs after the blocks that no token count changes.
        head_token_macs: MACs after them for each token left.
        head_skips_prefix: whether prefix tokens do not count there.
        clip: whether it is CLIP's tower, known by a norm before its blocks.
    """

    family: str
    blocks: tuple[BlockGeometry, ...]
    width: int
    prefix: int
    grid: tuple[int, int]
    has_cls: bool
    stem_patch_macs: int
    head_macs: int
    head_token_macs: int = 0
    head_skips_prefix: bool = False
    clip: bool = False

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def stem_macs(self) -> int:
        """MACs before the blocks, of an image that was not resized."""
        return self.stem_patch_macs * self.patches

    @property
    def tokens(self) -> int:
        """Tokens of one unpruned image, prefix included."""
        return self.patches + self.prefix

    @property
    def whole_macs(self) -> int:
        """MACs of one unpruned image through the whole model."""
        counts = [self.tokens] * self.depth
        return self.macs(self.patches, counts, counts, self.tokens)

    def macs(
        self, patches: Count, attention: Sequence[Count], mlp: Sequence[Count], left: Count
    ) -> Count:
        """MACs of an image, or of each image ``[B]``: the closed form of the ledger.

        Args:
            patches: made by the stem. attention, mlp: tokens at each block's attention and MLP.
            left: tokens at the end, prefix included.
        """
        work = self.stem_patch_macs * patches + self.head_macs
        for block, seen, kept in zip(self.blocks, attention, mlp, strict=True):
            work = work + block.macs(seen, kept)
        pooled = left - self.prefix if self.head_skips_prefix else left
        return work + self.head_token_macs * pooled


@dataclass(frozen=True)
class LanguageGeometry:
    """A language model as its work sees it. The products of causal attention count in full.

    Attributes:
        blocks: one entry per layer. width: D. head_token: MACs of the head per token it scores.
    """

    blocks: tuple[BlockGeometry, ...]
    width: int
    head_token: int


@dataclass(frozen=True)
class LlavaGeometry:
    """A vision-language model as its work sees it.

    Attributes:
        tower: up to the block whose output is used. projector_token: MACs of the projector per
            image token. language: the language model.
    """

    tower: Geometry
    projector_token: int
    language: LanguageGeometry


def block_geometry(attention: Any, mlp: nn.Module) -> BlockGeometry:
    """MACs of a block of these two; the attention says ``num_heads`` and ``head_dim``."""
    return BlockGeometry(
        attention_token=linear_macs(attention),
        attention_pair=2 * attention.num_heads * attention.head_dim,
        mlp_token=linear_macs(mlp),
    )


def linear_macs(module: nn.Module) -> int:
    """MACs per token of all linear layers inside a module."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def convolution_macs(convolution: nn.Conv2d, positions: int = 1) -> int:
    """MACs of a convolution for each patch, in which it writes that many positions."""
    return convolution.weight.numel() * positions
