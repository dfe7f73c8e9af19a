"""Training of AS-ViT's thresholds on a frozen backbone: masks, straight-through, its authors' loss.

Patches are masked in attention instead of removed; a decision has the gradient of a steep sigmoid.
The authors train the backbone with them; here three numbers are all that is learnt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from asap_eval.errors import BadValueError
from asap_eval.hosts import backbone_of, geometry_of, install
from asap_eval.hosts.geometry import Geometry
from asap_eval.method import Batch, Reducer, View
from asap_eval.methods.asvit import AsVit, score
from asap_eval.methods.parts.thresholds import KEY
from asap_eval.train.fits.fit import Asked, Fit
from asap_eval.train.fits.losses import ce_loss, kl_loss
from asap_eval.train.fits.masked import check_output, softmax_policy

TEMPERATURE = 1e-4
"""Of the sigmoid whose gradient a decision has."""


class ThresholdFit(Fit):
    """The thresholds of an `AsVit`, from those it starts with, and the file they go to."""

    of = AsVit
    thresholds: Tensor

    def __init__(self, asked: Asked, pixels: Tensor) -> None:
        super().__init__(asked, pixels)
        method = cast(AsVit, asked.method)
        if method.k != 1:
            raise BadValueError(
                f"method.k={method.k:g} scales the thresholds that training makes: leave it out."
            )
        self.geometry = geometry_of(asked.model)
        self.places = method.places(self.geometry.depth)
        if not self.places:
            raise BadValueError(f"method.blocks={method.blocks}: nothing to train.")
        start = method.given()
        if len(start) < len(self.places):
            raise BadValueError(
                f"asvit: {len(start)} thresholds for blocks={list(self.places)}: give one for each."
            )
        found = torch.tensor(start[: len(self.places)], dtype=torch.float32)
        self.thresholds = nn.Parameter(found, requires_grad=self.how == "gradients")

    def tensors(self) -> dict[str, Tensor]:
        # No score is below 0: a threshold there keeps what one at 0 keeps.
        return {KEY.format(at): value.clamp(min=0) for at, value in enumerate(self.thresholds)}

    def said(self) -> dict[str, str]:
        found = [f"{value:.6g}" for value in self.thresholds.tolist()]
        return {"blocks": json.dumps(list(self.places)), "thresholds": ", ".join(found)}


class AsVitFit(ThresholdFit):
    """Thresholds by gradients."""

    names = ("loss", "ce", "kl", "work", "features")
    recipe = MappingProxyType(
        {
            **{"target": -35.0, "epochs": 30, "batch_size": 32, "lr": 2e-5, "weight_decay": 0.0},
            # Theirs is 2 for a GMAC: of DeiT-S, whose work is 4.6 GMACs, 9.2 for all of it.
            **{"ce": 1.0, "kl": 0.5, "work": 9.2, "features": 0.5},
        }
    )

    def __init__(self, asked: Asked, pixels: Tensor) -> None:
        super().__init__(asked, pixels)
        check_output(asked.model, pixels)

    def losses(
        self, model: nn.Module, pixels: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, ...]:
        with torch.no_grad(), last_tokens(model) as theirs:
            teacher = model(pixels)
        masked = Thresholded(cast(AsVit, self.method), self.thresholds)
        with last_tokens(model) as ours, install(model, masked):
            student = model(pixels)
        state = masked.state
        wanted = 1 + self.wanted["target"] / 100
        parts = {
            "ce": ce_loss(student, teacher),
            "kl": kl_loss(student, teacher),
            "work": (share_of_work(self.geometry, state.counts(self.geometry)) - wanted).abs(),
            "features": tokens_kl(ours[0], theirs[0], state.policy, self.geometry.prefix),
        }
        weighted = [self.wanted[name] * value for name, value in parts.items()]
        return (torch.stack(weighted).sum(), *parts.values())


@dataclass
class Soft:
    """State of one masked pass.

    Attributes:
        index: place among the thresholds of each acting block, counted from 1.
        policy: ``[B, N]`` 1 = kept so far. kept: ``[B]`` tokens left behind each acting block.
        score: ``[B, N]`` of the latest block that ran masked.
    """

    index: dict[int, int]
    policy: Tensor
    kept: dict[int, Tensor] = field(default_factory=dict)
    score: Tensor | None = None

    def counts(self, geometry: Geometry) -> list[Tensor]:
        """``[B]`` tokens in each block, with the gradients of the decisions."""
        left, found = self.policy.new_full((len(self.policy),), geometry.tokens), []
        for block in range(1, geometry.depth + 1):
            found.append(left)
            left = self.kept.get(block, left)
        return found


class Thresholded(Reducer):
    """AS-ViT as it runs in training: no token moves.

    Args:
        method: with its options. thresholds: one for each place.
    """

    name = "asvit"
    requires_cls = True

    def __init__(self, method: AsVit, thresholds: Tensor) -> None:
        self.method, self.thresholds = method, thresholds
        self.state: Soft

    def begin(self, batch: Batch) -> Soft:
        # Before block b, counted from 0, is after the block before it, which is b counted from 1.
        index = {block: at for at, block in enumerate(self.method.places(batch.depth))}
        policy = torch.ones(batch.count, batch.tokens, device=batch.device)
        self.state = Soft(index, policy)
        return self.state

    def attends(self, block: int, state: Soft) -> bool:
        return block >= min(state.index)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, state: Soft) -> Tensor:
        maps = softmax_policy(q @ k.mT * q.shape[-1] ** -0.5, state.policy)
        out = maps @ v
        # Observations: what a later place sees is no reason for an earlier one to decide otherwise.
        state.score = score(maps[:, :, 0], out.norm(dim=-1)).detach()
        return out

    def watch(self, block: int, state: Soft) -> bool:
        return block in state.index

    def decide(self, view: View, state: Soft) -> None:
        assert state.score is not None
        theta = self.thresholds[state.index[view.block]]
        found = state.score[:, view.prefix :]
        soft = ((found - theta) / TEMPERATURE).sigmoid()
        choice = (found > theta).float() + (soft - soft.detach())
        patches = state.policy[:, view.prefix :] * choice
        state.policy = torch.cat([state.policy[:, : view.prefix], patches], 1)
        state.kept[view.block] = state.policy.sum(1)


def share_of_work(geometry: Geometry, counts: list[Tensor]) -> Tensor:
    """Mean MACs of a batch over the unpruned model's, from ``[B]`` tokens in each block."""
    patches = counts[0].new_tensor(float(geometry.patches))
    work = geometry.macs(patches, counts, counts, counts[-1])
    return work.mean() / geometry.whole_macs


def tokens_kl(ours: Tensor, theirs: Tensor, policy: Tensor, prefix: int) -> Tensor:
    """KL(theirs || ours) of the kept patches' features as distributions, mean over patches.

    Args:
        ours, theirs: ``[B, N, D]``. policy: ``[B, N]``, 1 = kept.
    """
    kept = policy[:, prefix:].detach()
    p, q = (tokens[:, prefix:].float().log_softmax(-1) for tokens in (theirs, ours))
    return ((p.exp() * (p - q)).sum(-1) * kept).sum() / kept.sum().clamp(min=1)


@contextmanager
def last_tokens(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects ``[B, N, D]`` what leaves the blocks, through the model's norm if it has one."""
    backbone = backbone_of(model)
    found: list[Tensor] = []
    module = backbone.norm if backbone.norm is not None else backbone.blocks[-1]
    handle = module.register_forward_hook(lambda _module, _args, out: found.append(out))
    try:
        yield found
    finally:
        handle.remove()
