"""VisPruner: Beyond Text-Visual Attention, Exploiting Visual Cues for Effective Token Pruning in
VLMs (Zhang et al., arXiv 2412.01818).

Half of the tokens handed to the language model are those that the class token attends to most; the
other half is what is left when near-duplicates are dropped, eight at a time, from all the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.selection import check_count, thin_by_rounds
from asap_eval.packing import Crops, base_then_raster
from asap_eval.tokens import Reduction


@register(
    "vispruner",
    Card(
        paper="Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in "
        "VLMs, arXiv 2412.01818",
        licence="see repository Theia-4869/VisPruner",
        training="training-free",
        knob="k",
        knob_meaning="tokens handed on per crop, from 1 to the patches",
        fixed_count=True,
        deviations="similarities in fp64, of all pairs once; any k and ratio (theirs fails where "
        "the diverse part is odd in number or smaller than a round); every image by itself (theirs "
        "flattens a batch into one image)",
    ),
)
@dataclass
class VisPruner(Reducer):
    """Hand on the most attended patches and the most diverse of the others, in raster order.

    Chaotic: a rounding error can change a third of what is kept, because one swap decides who meets
    whom in all later rounds. fp64 makes the choice depend on the features alone, not on a batch's
    size; the features' own rounding stays.

    Of several crops: the base crop, then the tiles' patches in raster order of the stitched grid,
    padding included and without newlines.

    Attributes:
        k: tokens handed on per crop.
        ratio: share of them chosen for the class token's attention.
        packing: of several crops: the authors' as above, or ``spatial``: the model's own, without
            padding and with newlines.
    """

    k: int = 64
    ratio: float = 0.5
    packing: Literal["authors", "spatial"] = "authors"
    site = "output"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW, Need.FEATURES})

    def check(self, batch: Batch) -> None:
        check_count(self.name, self.k, batch.patches)
        if not 0 <= self.ratio <= 1:
            raise BadValueError(
                f"vispruner: ratio={self.ratio} is a share: give a value in [0, 1]."
            )

    def decide(self, view: View, state: None) -> Reduction | None:
        score = view.cls_row.mean(1)[:, view.prefix :]
        features = view.features[:, view.prefix :]
        important, diverse = important_and_diverse(score, features, self.k, self.ratio)
        return Reduction.keep(F.pad(important | diverse, (view.prefix, 0), value=True))

    def macs(self, view: View, state: None) -> int:
        """Cosines of all pairs of patches."""
        return (view.size.shape[1] - view.prefix) ** 2 * view.features.shape[-1]

    def pack(self, crops: Crops) -> Tensor | None:
        return None if self.packing == "spatial" else base_then_raster(crops)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.patches


def important_and_diverse(
    score: Tensor, features: Tensor, count: int, ratio: float
) -> tuple[Tensor, Tensor]:
    """``[b, P]`` bool masks: the important patches, and the diverse ones among the others.

    Args:
        score: ``[b, P]``, larger is more important. features: ``[b, P, D]``, compared by cosine.
        count: patches to keep. ratio: share of them kept for their score, rounded down.
    """
    # fp64: a near-tie decides who meets whom from then on, and the size of a batch changes the last
    # bits of an fp32 product.
    unit = F.normalize(features.double(), dim=-1)
    return thin_by_rounds(score, unit @ unit.mT, count, int(count * ratio))
