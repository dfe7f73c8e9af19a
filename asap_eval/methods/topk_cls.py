"""Our control: keep the patches that the class token attends to most."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from asap_eval.method import Card, Need, View, register
from asap_eval.scorer import Plan, Scorer


@register(
    "topk_cls",
    Card(
        paper="ours: the class token's attention at one block",
        licence="ours",
        training="training-free",
        knob="k",
        knob_meaning="share of patches kept, 0 < k <= 1",
        fixed_count=True,
    ),
)
@dataclass
class TopkCls(Scorer):
    """Keep the patches with the largest attention of the class token, mean over heads.

    The class token's row is computed again from one query, which is not counted as the method's
    own work: it is part of the model's attention.
    """

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW})

    def score(self, view: View, state: Plan) -> Tensor:
        return view.cls_row.mean(1)[:, view.prefix :]
