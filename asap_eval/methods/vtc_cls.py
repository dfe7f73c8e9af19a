"""VTC-CLS: [CLS] Token Tells Everything Needed for Training-free Efficient MLLMs (Wang et al.,
arXiv 2412.05819).

The language model gets the patches that the class token attends to most, over several blocks of the
tower: their attention is summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.selection import check_count
from asap_eval.packing import Crops, base_then_raster
from asap_eval.tokens import Reduction


@register(
    "vtc_cls",
    Card(
        paper="[CLS] Token Tells Everything Needed for Training-free Efficient MLLMs, "
        "arXiv 2412.05819",
        licence="Apache-2.0",
        training="training-free",
        knob="k",
        knob_meaning="tokens handed on per crop, from 1 to the patches",
        fixed_count=True,
        deviations="every crop of LLaVA-NeXT by itself (theirs runs one crop); ties go to the "
        "earlier patch",
    ),
)
@dataclass
class VtcCls(Reducer):
    """Hand on the patches with the most class attention summed over blocks, in raster order.

    Of several crops: the base crop, then the tiles' patches in raster order of the stitched grid,
    padding included and without newlines.

    Attributes:
        k: tokens handed on per crop.
        start: the first block whose attention counts, from 0 as the authors count; the last is the
            last used block (22 of LLaVA's). Their tables do not say it; 16 is their default.
        packing: of several crops: as above, or ``spatial``: the model's own, without padding and
            with newlines.
    """

    k: int = 64
    start: int = 16
    packing: Literal["authors", "spatial"] = "authors"
    site = "output"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW})

    def check(self, batch: Batch) -> None:
        check_count(self.name, self.k, batch.patches)
        if not 0 <= self.start < batch.depth:
            raise BadValueError(
                f"vtc_cls: start={self.start}, but the tower's used blocks are 0 to "
                f"{batch.depth - 1}, counted from 0 as the authors do."
            )

    def begin(self, batch: Batch) -> list[Tensor]:
        return []

    def observes(self, block: int, state: list[Tensor]) -> bool:
        return block - 1 >= self.start

    def observe(self, view: View, state: list[Tensor]) -> None:
        state.append(view.cls_row[:, :, view.prefix :])

    def decide(self, view: View, state: list[Tensor]) -> Reduction | None:
        kept = most_attended(torch.stack(state), self.k)
        return Reduction.keep(F.pad(kept, (view.prefix, 0), value=True))

    def pack(self, crops: Crops) -> Tensor | None:
        return None if self.packing == "spatial" else base_then_raster(crops)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.patches


def summed(rows: Tensor) -> Tensor:
    """``[b, P]`` class attention, mean over heads and summed over blocks, of ``[L, b, H, P]``."""
    return rows.mean(2).sum(0)


def most_attended(rows: Tensor, count: int) -> Tensor:
    """``[b, P]`` bool, the ``count`` patches with the largest sum; ``rows`` is ``[L, b, H, P]``."""
    order = summed(rows).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1) < count
