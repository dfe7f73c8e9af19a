"""AS-ViT: Adaptive Sparse ViT, Towards Learnable Adaptive Token Pruning (arXiv 2209.13802).

Behind three blocks every patch goes whose score does not exceed a threshold: the class token's
attention, each head weighted by its share in the norms of the heads' outputs at that patch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from asap_eval.checkpoint import check_there
from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.methods.parts.predictors import origin
from asap_eval.methods.parts.thresholds import load_thresholds
from asap_eval.tokens import Reduction

THRESHOLDS = (0.001, 0.002, 0.003)
"""Where the authors' training starts from."""


@register(
    "asvit",
    Card(
        paper="Adaptive Sparse ViT: Towards Learnable Adaptive Token Pruning by Fully Exploiting "
        "Self-Attention, arXiv 2209.13802",
        licence="none in the authors' repository",
        training="the authors train thresholds and backbone and publish neither; here the rule "
        "with their initial thresholds, or with those that `asap-eval train` learns on a frozen "
        "backbone or calibrates as quantiles (ours)",
        knob="k",
        knob_meaning="one factor on all thresholds, from 0; a larger one drops more",
        fixed_count=False,
        deviations="a budget turns one factor on all thresholds; every image by itself, which is "
        "the paper's rule (their batches keep a common number); distillation and register tokens "
        "are protected",
    ),
)
@dataclass
class AsVit(Reducer):
    """Keep the patches whose score exceeds the place's threshold, in their order.

    Attributes:
        k: factor on all thresholds.
        thresholds: one for each place from the first on, those behind them are not used; ``None`` =
            the authors' initial three.
        checkpoint: a file with them, under ``score_predictor.<i>.keep_threshold``, in their place.
        blocks: places: before these blocks, counted from 0 as the authors do, with the scores of
            the block in front; ``None`` = one behind L/4, L/2 and 3L/4: 4, 7, 10 of 12.
    """

    k: float = 1.0
    thresholds: list | None = None
    checkpoint: str | None = None
    blocks: list | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW, Need.HEAD_NORMS})

    def look(self) -> None:
        if self.checkpoint is not None:
            check_there(Path(self.checkpoint).expanduser(), "method.checkpoint")

    def check(self, batch: Batch) -> None:
        if self.checkpoint is not None and self.thresholds is not None:
            raise BadValueError("asvit: checkpoint has thresholds: leave method.thresholds out.")
        found, places = self.given(), self.places(batch.depth)
        if not self.k >= 0 or not all(isinstance(t, float | int) and t >= 0 for t in found):
            raise BadValueError(f"asvit: k={self.k}, thresholds={found}: give numbers from 0.")
        trained_for = json.loads(self.origin().get("blocks", "null"))
        if trained_for not in (None, list(places)):
            raise BadValueError(
                f"asvit: the thresholds of {self.checkpoint} were made for "
                f"method.blocks={trained_for}, these are blocks={list(places)}."
            )
        if len(found) < len(places):
            raise BadValueError(
                f"asvit: {len(found)} thresholds for {len(places)} places, blocks={list(places)}: "
                "give one for each."
            )

    def given(self) -> list[float]:
        """The thresholds before the factor k, by place."""
        if self.checkpoint is not None:
            return list(load_thresholds(self.checkpoint, self.name))
        return list(THRESHOLDS) if self.thresholds is None else self.thresholds

    def places(self, depth: int) -> tuple[int, ...]:
        """Blocks before which patches go, counted from 0."""
        if self.blocks is not None and 0 in self.blocks:
            raise BadValueError("asvit: blocks counts from 0, and nothing has a score before it.")
        blocks = self.blocks
        if blocks is None:
            blocks = [min(at + 1, depth - 1) for at in locations(self.name, None, depth)]
            blocks = sorted(set(blocks))
        return locations(self.name, blocks, depth)

    def begin(self, batch: Batch) -> dict[int, float]:
        """Threshold of each acting block, counted from 1: before block b + 1 is after block b."""
        found = self.given()
        places = self.places(batch.depth)
        return {at: self.k * float(theta) for at, theta in zip(places, found, strict=False)}

    def watch(self, block: int, state: dict[int, float]) -> bool:
        return state.get(block, 0) > 0

    def decide(self, view: View, state: dict[int, float]) -> Reduction | None:
        keep = view.size > 0
        found = score(view.cls_row, view.head_norms)[:, view.prefix :]
        keep[:, view.prefix :] &= found > state[view.block]
        return Reduction.keep(keep)

    def origin(self) -> dict[str, Any]:
        return origin(self.checkpoint) if self.checkpoint else {}

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 0.0, 10.0


def score(cls_row: Tensor, norms: Tensor) -> Tensor:
    """``[b, N]`` from the class token's attention and the heads' output norms, ``[b, H, N]``."""
    share = norms / (norms.sum(1, keepdim=True) + 1e-8)
    return (cls_row * share.to(cls_row.dtype)).sum(1)
