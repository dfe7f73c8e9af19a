"""Training of Sparsifiner's mask predictors: attention rebuilt from a frozen backbone's q and k.

The authors' first stage: each block's predictor learns to reconstruct that block's attention,
without labels. Their second stage, which tunes the backbone to sparse attention, is not done here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.errors import BadValueError
from asap_eval.files.tensors import save_tensors
from asap_eval.hosts import geometry_of, install
from asap_eval.method import Batch, Reducer
from asap_eval.methods.parts.connectivity import MaskPredictor
from asap_eval.methods.parts.predictors import FORMAT, TRAINED

WEIGHT = 0.01
"""Of the squared error, as the authors' loss has it."""


@dataclass
class Watcher(Reducer):
    """Runs attention as it is and keeps each block's queries, keys and maps."""

    name = "mask-training"
    seen: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def begin(self, batch: Batch) -> None:
        self.seen.clear()

    def watch(self, block: int, state: Any) -> bool:
        return False

    def attends(self, block: int, state: Any) -> bool:
        return True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, state: Any) -> Tensor:
        maps = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        self.seen.append((q.float(), k.float(), maps.float()))
        return maps @ v


def fit_masks(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    rank: int | None = None,
    inner: int | None = None,
    lr: float = 1e-3,
    seed: int = 0,
) -> tuple[list[MaskPredictor], list[float]]:
    """One predictor for each block, fitted over all batches once.

    Args:
        model: a supported image model, in eval mode; it is not changed.
        batches: images ``[b, 3, H, W]`` as the model takes them, on its device.
        rank: K, ``None`` = a sixth of the tokens. inner: c, ``None`` = half of a head's width.

    Returns:
        The predictors, and the loss of each batch, mean over blocks and images.

    Raises:
        BadValueError: no batch.
    """
    geometry, watcher = geometry_of(model), Watcher()
    predictors: list[MaskPredictor] = []
    optimizer: torch.optim.Optimizer | None = None
    losses: list[float] = []
    for images in batches:
        with install(model, watcher), torch.no_grad():
            model(images)
        if optimizer is None:
            width = watcher.seen[0][0].shape[-1]
            generator = torch.Generator().manual_seed(seed)
            shape = (geometry.tokens, width, inner or width // 2, rank or geometry.tokens // 6)
            predictors = [untrained(shape, generator).to(images.device) for _ in watcher.seen]
            learnt = [value for each in predictors for value in each.parameters()]
            optimizer = torch.optim.AdamW(learnt, lr=lr, weight_decay=0)
        loss = torch.stack(
            [
                rebuilt(predictor, *seen, geometry.prefix)
                for predictor, seen in zip(predictors, watcher.seen, strict=True)
            ]
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    if not losses:
        raise BadValueError("Mask predictors are fitted on images, and there is no batch of them.")
    return [predictor.eval() for predictor in predictors], losses


def untrained(shape: tuple[int, int, int, int], generator: torch.Generator) -> MaskPredictor:
    """A fresh predictor whose guess is of an attention's size. shape: N, d, c, K."""
    predictor = MaskPredictor(*shape)
    with torch.no_grad():
        for name, value in predictor.named_parameters():
            scale = 1 / shape[0] if name == "proj_back_n" else value[0].numel() ** -0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
            if name.endswith("bias"):
                value.zero_()
    return predictor


def rebuilt(predictor: MaskPredictor, q: Tensor, k: Tensor, maps: Tensor, prefix: int) -> Tensor:
    """The authors' loss for an image: squared error of the guess, from all coefficients and a basis
    that is signed and has no threshold."""
    active = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
    guess = predictor.coefficients(q, k, active, prefix) @ predictor.proj_back_n.mT
    return WEIGHT * (guess - maps[:, :, prefix:]).square().sum() / len(q)


def write_masks(path: Path, predictors: list[MaskPredictor], said: dict[str, str]) -> None:
    """A checkpoint of ``method=sparsifiner``, in its authors' names; all of it or nothing."""
    tensors = {
        f"blocks.{block}.attn.mask_predictor.{name}": value
        for block, predictor in enumerate(predictors)
        for name, value in predictor.state_dict().items()
    }
    notes = {"format": FORMAT, "trained": TRAINED, "method": "sparsifiner", **said}
    save_tensors(tensors, path, notes)
