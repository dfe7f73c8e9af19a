"""Training of Sparsifiner's mask predictors: attention rebuilt from a frozen backbone's q and k.

The authors' first stage: each block's predictor learns to reconstruct that block's attention,
without labels. Their second stage, which tunes the backbone to sparse attention, is not done here.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn

from asap_eval.hosts import geometry_of
from asap_eval.methods.parts.connectivity import MaskPredictor
from asap_eval.methods.sparsifiner import Sparsifiner
from asap_eval.train.fits.fit import Asked, Fit
from asap_eval.train.fits.watching import Seen, watched

WEIGHT = 0.01
"""Of the squared error, as the authors' loss has it."""


class SparsifinerFit(Fit):
    """One predictor for each block; rank and inner width as the authors', N/6 and d/2."""

    of = Sparsifiner
    recipe = MappingProxyType({"epochs": 5, "batch_size": 16, "lr": 1e-3, "weight_decay": 0.0})

    def __init__(self, asked: Asked, pixels: Tensor) -> None:
        super().__init__(asked, pixels)
        geometry = geometry_of(asked.model)
        self.prefix = geometry.prefix
        draws = torch.Generator().manual_seed(asked.seed)
        self.predictors = nn.ModuleList(
            untrained(geometry.tokens, seen.q.shape[-1], draws)
            for seen in watched(asked.model, pixels)
        )

    def losses(
        self, model: nn.Module, pixels: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, ...]:
        """The error of an image's maps, mean over blocks and images."""
        found = [
            rebuilt(predictor, seen, self.prefix)  # type: ignore[arg-type]
            for predictor, seen in zip(self.predictors, watched(model, pixels), strict=True)
        ]
        return (torch.stack(found).mean(),)

    def tensors(self) -> dict[str, Tensor]:
        """In the authors' names."""
        return {
            f"blocks.{block}.attn.mask_predictor.{name}": value
            for block, predictor in enumerate(self.predictors)
            for name, value in predictor.state_dict().items()
        }


def untrained(tokens: int, width: int, draws: torch.Generator) -> MaskPredictor:
    """A fresh predictor for N tokens and heads of a width; its guess is of an attention's size."""
    predictor = MaskPredictor(tokens, width, max(1, width // 2), max(1, tokens // 6))
    with torch.no_grad():
        for name, value in predictor.named_parameters():
            scale = 1 / tokens if name == "proj_back_n" else value[0].numel() ** -0.5
            value.copy_(torch.randn(value.shape, generator=draws) * scale)
            if name.endswith("bias"):
                value.zero_()
    return predictor


def rebuilt(predictor: MaskPredictor, seen: Seen, prefix: int) -> Tensor:
    """The authors' loss for an image: squared error of the guess, from all coefficients and a basis
    that is signed and has no threshold."""
    active = torch.ones(len(seen.q), seen.q.shape[2], dtype=torch.bool, device=seen.q.device)
    coefficients = predictor.coefficients(seen.q, seen.k, active, prefix)
    guess = coefficients @ predictor.proj_back_n.mT
    return WEIGHT * (guess - seen.maps[:, :, prefix:]).square().sum() / len(seen.q)
