"""The model in training: patches are masked in attention instead of removed, so that what is
dropped stays differentiable (DynamicViT, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.errors import UnsupportedModelError
from asap_eval.hosts import backbone_of
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.methods.parts.learned import Learned, Stages
from asap_eval.methods.parts.predictors import Predictor

EPS = 1e-6


def softmax_policy(logits: Tensor, policy: Tensor) -> Tensor:
    """``[B, H, N, N]`` attention to the tokens of a policy; every token also sees itself.

    Args:
        logits: ``[B, H, N, N]``. policy: ``[B, N]``, 1 = there, 0 = masked.
    """
    count = logits.shape[-1]
    itself = torch.eye(count, dtype=logits.dtype, device=logits.device)
    seen = policy[:, None, None, :]
    seen = seen + (1 - seen) * itself
    # Every column takes part in the maximum: it only keeps exp() small.
    weights = (logits - logits.amax(-1, keepdim=True)).exp() * seen
    return (weights + EPS / count) / (weights.sum(-1, keepdim=True) + EPS)


def gumbel_choice(logprob: Tensor, generator: torch.Generator) -> Tensor:
    """``[B, P]`` 1 = keep, 0 = drop, drawn from log-probabilities ``[B, P, 2]``.

    Straight through: the values are the draw's, the gradients those of the softmax at
    temperature 1. The noise is made on the CPU, the same for every device.
    """
    noise = -torch.empty(logprob.shape).exponential_(generator=generator).log()
    soft = (logprob + noise.to(logprob.device)).softmax(-1)
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return ((hard - soft).detach() + soft)[..., 0]


@dataclass
class Masks:
    """State of one masked pass.

    Attributes:
        stages: the method's own. policy: ``[B, N]`` 1 = kept so far; prefix tokens always.
        kept: ``[B]`` share of the patches kept at each place so far.
        maps: ``[B, H, N, N]`` of the latest block that ran masked.
    """

    stages: Stages
    policy: Tensor
    kept: list[Tensor] = field(default_factory=list)
    maps: Tensor | None = None


class Masked(Reducer):
    """A method with predictors as it runs in training: no token moves.

    Args:
        method: with its options. predictors: by place (block from 0); one that is missing is made,
            untrained, when its place is reached.
        generator: of the draws; the masks of the latest pass are in ``masks``.
    """

    def __init__(
        self, method: Learned, predictors: dict[int, Predictor], generator: torch.Generator
    ) -> None:
        self.method, self.predictors, self.generator = method, predictors, generator
        self.site = method.site  # type: ignore[misc]
        self.name = method.name  # type: ignore[misc]
        self.masks: Masks

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FEATURES})

    @property
    def requires_cls(self) -> bool:
        return self.method.requires_cls

    def check(self, batch: Batch) -> None:
        self.method.check_options(batch)

    def begin(self, batch: Batch) -> Masks:
        policy = torch.ones(batch.count, batch.tokens, device=batch.device)
        self.masks = Masks(self.method.stages(batch, self.predictors), policy)
        return self.masks

    def attends(self, block: int, state: Masks) -> bool:
        read = Need.HEAD_ATTENTION in self.method.needs and self.method.watch(block, state.stages)
        return read or bool(state.kept)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, state: Masks) -> Tensor:
        logits = q @ k.mT * q.shape[-1] ** -0.5
        state.maps = softmax_policy(logits, state.policy)
        return state.maps @ v

    def watch(self, block: int, state: Masks) -> bool:
        return self.method.watch(block, state.stages)

    def decide(self, view: View, state: Masks) -> None:
        """Mask what the predictor drops; a masked token has size 0, as padding has."""
        reads = {Need.FEATURES: view.features}
        if state.maps is not None:
            reads[Need.HEAD_ATTENTION] = state.maps
        seen = View(view.block, view.images, state.policy, view.prefix, view.note, reads)
        inputs, place = self.method.inputs(seen, state.stages), self.method.place(view.block)
        if inputs is None:
            return
        if place not in self.predictors:
            self.predictors[place] = self.method.untrained(inputs).to(view.features.device)
        choice = gumbel_choice(self.predictors[place](*inputs), self.generator)
        patches = state.policy[:, view.prefix :] * choice
        state.policy = torch.cat([state.policy[:, : view.prefix], patches], 1)
        state.kept.append(patches.mean(1))


@torch.no_grad()
def check_output(model: nn.Module, pixels: Tensor) -> None:
    """Masking is in attention alone, so the output must come from prefix tokens alone.

    Args:
        pixels: ``[B, 3, H, W]`` some images.

    Raises:
        UnsupportedModelError: the model's head reads patches (it averages them, or lets them vote).
    """
    backbone = backbone_of(model)
    prefix = backbone.geometry.prefix

    def without_patches(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
        return torch.cat([out[:, :prefix], torch.zeros_like(out[:, prefix:])], 1)

    plain = model(pixels)
    handle = backbone.blocks[-1].register_forward_hook(without_patches)
    try:
        same = torch.equal(model(pixels), plain)
    finally:
        handle.remove()
    if not same:
        raise UnsupportedModelError(
            f"The output of {backbone.geometry.family} reads patches, and training masks them in "
            "attention only: masked ones would still count. Use a model with a class token head."
        )
