"""Our control: keep the patches that attention looks at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, View, register
from asap_eval.scorer import Plan, Scorer
from asap_eval.tokens import Reduction


@register(
    "mass",
    Card(
        paper="ours: the heaviest columns of attention",
        licence="ours",
        training="training-free",
        knob="k",
        knob_meaning="share of patches kept, 0 < k <= 1",
        fixed_count=True,
    ),
)
@dataclass
class Mass(Scorer):
    """Keep the patches with the largest column sum of A_l, or of ASAP's walk C_l.

    Attributes:
        of: ``layer`` = column sums of the acting block's attention; ``walk`` = of
            ``C = T_1 ... T_l`` with ``T = alpha A + (1 - alpha) I``. Only the sums are walked:
            ``m_l = m_(l-1) T_l`` needs one row, not the whole of C.
        alpha: share of attention in a step of the walk.
    """

    of: Literal["layer", "walk"] = "layer"
    alpha: float = 0.5

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ATTENTION})

    def check(self, batch: Batch) -> None:
        super().check(batch)
        if not 0 <= self.alpha <= 1:
            raise BadValueError(f"mass: alpha={self.alpha} is a share: give a value in [0, 1].")

    def begin(self, batch: Batch) -> Plan:
        plan = super().begin(batch)
        plan.extra = torch.ones(batch.count, batch.tokens, device=batch.device)
        return plan

    def watch(self, block: int, state: Plan) -> bool | Tensor:
        if self.of == "layer":
            return super().watch(block, state)
        return (state.block >= block).nonzero().flatten()

    def decide(self, view: View, state: Plan) -> Reduction | None:
        if self.of == "layer":
            state.extra[view.images] = view.attention.sum(1).float()
        else:
            mass = state.extra[view.images]
            step = torch.bmm(mass[:, None], view.attention.float())[:, 0]
            state.extra[view.images] = self.alpha * step + (1 - self.alpha) * mass
        acting = state.block[view.images.cpu()] == view.block
        return super().decide(view, state) if bool(acting.any()) else None

    def macs(self, view: View, state: Plan) -> Tensor | int:
        return view.lengths**2 if self.of == "walk" else 0

    def score(self, view: View, state: Plan) -> Tensor:
        mass: Tensor = state.extra[view.images]
        return mass[:, view.prefix :]
