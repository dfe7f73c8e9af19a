"""Control: patches chosen at random, seeded by the image's id."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.method import Card, View, register
from asap_eval.scorer import Plan, Scorer


@register(
    "random",
    Card(
        paper="control",
        licence="ours",
        training="training-free",
        knob="k",
        knob_meaning="share of patches kept, 0 < k <= 1",
        fixed_count=True,
    ),
)
@dataclass
class Random(Scorer):
    """Keep a random share of the patches: what any selection has to beat."""

    def score(self, view: View, state: Plan) -> Tensor:
        rows = [
            torch.rand(state.batch.patches, generator=state.batch.generator(image, self.name))
            for image in view.images.tolist()
        ]
        return torch.stack(rows).to(view.size.device)
