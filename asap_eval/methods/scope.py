"""SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs (NeurIPS 2025,
arXiv 2510.24214).

Patches are taken one after another: each time the one that makes those taken cover most of the
image that they did not cover yet, weighted by the class token's attention to it.
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
from asap_eval.methods.parts.greedy import chosen_mask, cosines, one_by_one, row_of
from asap_eval.methods.parts.selection import check_count
from asap_eval.packing import Crops, base_then_raster
from asap_eval.tokens import Reduction


@register(
    "scope",
    Card(
        paper="SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs, "
        "arXiv 2510.24214",
        licence="none public",
        training="training-free",
        knob="k",
        knob_meaning="tokens handed on per crop, from 1 to the patches",
        fixed_count=True,
        deviations="k counts the tokens of a crop (theirs those of an image, split evenly over its "
        "crops and rounded down: the same of five crops, where published counts are of five); "
        "similarities in fp64",
    ),
)
@dataclass
class Scope(Reducer):
    """Hand on the patches that cover the image best, in raster order.

    Of several crops: the base crop, then the tiles' patches in raster order of the stitched grid,
    padding included and without newlines.

    Attributes:
        k: tokens handed on per crop.
        alpha: power of the class token's attention; 0 = coverage alone.
        packing: of several crops: the authors' as above, or ``spatial``: the model's own, without
            padding and with newlines.
    """

    k: int = 64
    alpha: float = 1.0
    packing: Literal["authors", "spatial"] = "authors"
    site = "output"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW, Need.FEATURES})

    def check(self, batch: Batch) -> None:
        check_count(self.name, self.k, batch.patches)
        if not 0 <= self.alpha < math.inf:
            raise BadValueError(f"scope: alpha={self.alpha} is a power: give a value >= 0.")

    def decide(self, view: View, state: None) -> Reduction | None:
        saliency = view.cls_row.sum(1)[:, view.prefix :]
        features = view.features[:, view.prefix :]
        order = covering(cosines(features), saliency.double() ** self.alpha, self.k)
        kept = chosen_mask(order, saliency.shape[1])
        return Reduction.keep(F.pad(kept, (view.prefix, 0), value=True))

    def macs(self, view: View, state: None) -> int:
        """Cosines of all pairs of patches."""
        return (view.size.shape[1] - view.prefix) ** 2 * view.features.shape[-1]

    def pack(self, crops: Crops) -> Tensor | None:
        return None if self.packing == "spatial" else base_then_raster(crops)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.patches


def covering(similarity: Tensor, weight: Tensor, count: int) -> Tensor:
    """``[b, count]`` patches in the order of choice: the one whose weight times what it adds to the
    coverage is largest.

    A patch is covered as well as the most similar one of those taken resembles it, at least 0.

    Args:
        similarity: ``[b, n, n]`` cosines. weight: ``[b, n]`` of each patch as a choice.
    """
    covered = torch.zeros_like(weight)

    def gain(chosen: Tensor | None) -> Tensor:
        if chosen is not None:
            covered.copy_(torch.maximum(covered, row_of(similarity, chosen)))
        return (similarity - covered[:, None]).clamp(min=0).sum(2) * weight

    return one_by_one(gain(None), gain, count)
