"""DynamicViT: dynamic token sparsification (Rao et al., arXiv 2106.02034).

Before a few blocks a small trained network scores every patch from its features and the mean of
all patches'; the best share goes on. Without trained predictors the scores mean nothing, so the
method runs from a checkpoint only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asap_eval.method import Card, Need, View, register
from asap_eval.methods.parts.learned import Learned, Stages
from asap_eval.methods.parts.predictors import Inputs, Predictor


@register(
    "dynamicvit",
    Card(
        paper="DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification, "
        "arXiv 2106.02034",
        licence="MIT",
        training="trained: runs from a checkpoint of predictors "
        "(the authors', or `asap-eval train`'s)",
        knob="k",
        knob_meaning="keep rate: int(n k^i) of n patches go on from the i-th place, 0 < k <= 1",
        fixed_count=True,
        deviations="distillation and register tokens are protected; where nothing is to be dropped "
        "the patches keep their order and no predictor runs",
    ),
)
@dataclass
class DynamicViT(Learned):
    """Keep the patches with the highest predictor scores, in the order of falling score.

    The predictors of the authors' checkpoint belong to its backbone, which they fine-tune with
    them: load both from one file (``weights=`` and ``method.checkpoint=``). Those of
    `asap-eval train` belong to the frozen backbone they were trained on. Options as in `Learned`.
    """

    site = "before"
    by_score = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FEATURES})

    def inputs(self, view: View, state: Stages) -> Inputs:
        return view.size[:, view.prefix :], view.features[:, view.prefix :].float()

    def untrained(self, inputs: Inputs) -> Predictor:
        return FeaturePredictor(inputs[1].shape[-1])

    @staticmethod
    def restored(state: Mapping[str, Tensor]) -> Predictor:
        return FeaturePredictor(len(state["in_conv.0.weight"]))


class FeaturePredictor(Predictor):
    """The authors' predictor; parameters are named as in their checkpoints."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.in_conv = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(width, half),
            nn.GELU(),
            nn.Linear(half, quarter),
            nn.GELU(),
            nn.Linear(quarter, 2),
            nn.LogSoftmax(dim=-1),
        )
        self.sizes = (width,)

    def forward(self, weight: Tensor, patches: Tensor) -> Tensor:
        """``[b, P, 2]`` from weights ``[b, P]`` and features ``[b, P, D]``."""
        width = patches.shape[-1]
        local, shared = self.in_conv(patches).split([width // 2, (width + 1) // 2], -1)
        # Every patch counts 1 at inference; in training those dropped before count 0.
        share = weight[..., None].to(shared.dtype)
        context = (shared * share).sum(1, keepdim=True) / share.sum(1, keepdim=True).clamp(min=1)
        return self.out_conv(torch.cat([local, context.expand_as(shared)], -1))
