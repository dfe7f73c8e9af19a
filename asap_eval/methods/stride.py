"""Control: patches at even distances in raster order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asap_eval.method import Card, View, register
from asap_eval.scorer import Plan, Scorer


@register(
    "stride",
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
class Stride(Scorer):
    """Keep evenly spaced patches: no look at the image at all."""

    def score(self, view: View, state: Plan) -> Tensor:
        keep = state.keep[view.images.cpu()].tolist()
        rows = [even_first(state.batch.patches, count) for count in keep]
        return torch.stack(rows).to(view.size.device)


def even_first(patches: int, keep: int) -> Tensor:
    """``[P]`` ones at ``keep`` positions as even as integers allow, zeros elsewhere."""
    score = torch.zeros(patches)
    # The middles of equal intervals: never two on one position, never one past the end.
    score[((torch.arange(keep) + 0.5) * patches / max(keep, 1)).long()] = 1
    return score
