"""LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models (Shang et al.,
arXiv 2403.15388).

Patches whose class attention is an outlier of the image's own are kept, with ``plus`` an even grid
of others too; each takes up its nearest by key, and one last token holds all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.packing import Crops
from asap_eval.tokens import Reduction

NEAREST = 32
"""Tokens that each kept one takes up, in the authors' code."""


@register(
    "prumerge",
    Card(
        paper="LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models, "
        "arXiv 2403.15388",
        licence="Apache-2.0",
        training="training-free (the authors' best rows are after LoRA)",
        knob=None,
        knob_meaning="none: every image keeps as many tokens as its attention has outliers",
        fixed_count=False,
        deviations="every crop by itself (theirs flattens a batch); without outliers the last "
        "token alone is left, and no grid (theirs divides by zero); quartiles and cosines in fp64",
    ),
)
@dataclass
class PruMerge(Reducer):
    """Keep outliers of class attention, add their neighbours, and the rest in one token.

    Attention and keys are those of the block after the last used one, over the whole width as one
    head. Order: outliers by falling attention, the grid, the rest. The class token is not handed
    on.

    Attributes:
        plus: PruMerge+, which keeps a grid of other patches too, the denser the fewer outliers.
    """

    plus: bool = False
    site = "output"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.NEXT_QUERIES, Need.NEXT_KEYS})

    @property
    def requires_cls(self) -> bool:
        return True

    def check(self, batch: Batch) -> None:
        if batch.prefix != 1:
            raise BadValueError(
                f"prumerge: this tower has {batch.prefix} tokens in front of its patches; the "
                "method is defined for a class token alone."
            )

    def decide(self, view: View, state: None) -> Reduction | None:
        q, k = (t.transpose(1, 2).flatten(2) for t in (view.next_queries, view.next_keys))
        attention = class_attention(q, k)
        images = [
            merged(a, keys, outliers(a, self.plus))
            for a, keys in zip(attention, k[:, 1:], strict=True)
        ]
        slots = 1 + max(len(mix) for _, mix in images)
        group = torch.zeros_like(view.size, dtype=torch.long)
        mix = attention.new_zeros(len(group), slots, group.shape[1])
        mix[:, 0, 0] = 1  # the class token, for the trace alone
        for row, (slot, weights) in enumerate(images):
            group[row, 1:] = 1 + slot
            mix[row, 1 : 1 + len(weights), 1:] = weights
        return Reduction(group, mix=mix)

    def macs(self, view: View, state: None) -> int:
        """The class token's row, and cosines of all pairs of patches."""
        tokens, width = view.size.shape[1], view.next_keys.shape[1] * view.next_keys.shape[3]
        return tokens * width + (tokens - 1) ** 2 * width

    def pack(self, crops: Crops) -> Tensor | None:
        return torch.arange(len(crops.crop), device=crops.crop.device)


def class_attention(q: Tensor, k: Tensor) -> Tensor:
    """``[b, P]`` the class token's softmax row over all tokens as one head, fp64; patches alone.

    Args:
        q, k: ``[b, N, C]``, class token first.
    """
    logits = q[:, :1].double() @ k.double().mT * k.shape[2] ** -0.5
    return logits.softmax(-1)[:, 0, 1:]


def outliers(attention: Tensor, plus: bool) -> Tensor:
    """``[n]`` patches kept of one image, in their order; none where attention has no outlier.

    Args:
        attention: ``[P]``. plus: whether a grid of others is added, ascending.
    """
    low, high = attention.quantile(attention.new_tensor([0.25, 0.75]))
    count = int((attention > high + 1.5 * (high - low)).sum())
    kept = attention.argsort(descending=True, stable=True)[:count]
    if not (plus and count):
        return kept
    # As the code has it: a third of the spacing of so many patches; 575 is fixed there for 576.
    step = (len(attention) // count) // 3
    grid = torch.arange(0, len(attention) - 1, max(step, 1), device=kept.device)
    return torch.cat([kept, grid[~torch.isin(grid, kept)]])


def merged(attention: Tensor, keys: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """``[P]`` slot that holds each patch, and ``[n + 1, P]`` what each slot is a sum of.

    A kept patch stands with weight 1, and its `NEAREST` others by cosine of keys, kept ones among
    them, with their attention; so do, in the last slot, all that are not kept.

    Args:
        attention: ``[P]``. keys: ``[P, C]``. kept: ``[n]`` patches.
    """
    patches, count = len(attention), len(kept)
    unit = F.normalize(keys.double(), dim=-1)
    similarity = (unit @ unit.mT)[kept]
    similarity[torch.arange(count, device=kept.device), kept] = -torch.inf
    slot = torch.full_like(attention, count, dtype=torch.long)
    slot[kept] = torch.arange(count, device=kept.device)
    mix = attention.new_zeros(count + 1, patches)
    if count:
        order = similarity.argsort(dim=1, descending=True, stable=True)
        near = order[:, : min(NEAREST, patches - 1)]
        mix[:count].scatter_(1, near, attention[near])
        mix[torch.arange(count, device=kept.device), kept] = 1
    mix[count] = torch.where(slot == count, attention, 0)
    return slot, mix
