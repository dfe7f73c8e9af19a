"""DynamicViT: dynamic token sparsification (Rao et al., arXiv 2106.02034).

Before a few blocks a small trained network scores every patch from its features and the mean of
all patches'; the best share goes on. Without trained predictors the scores mean nothing, so the
method runs from a checkpoint only.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.errors import BadValueError, WeightsError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.schedule import locations
from asap_eval.tokens import DROPPED, Reduction


@dataclass
class Stages:
    """State of one forward pass, by acting block from 0: patches kept there, and the predictor."""

    keep: dict[int, int]
    predictors: dict[int, Predictor]


@register(
    "dynamicvit",
    Card(
        paper="DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification, "
        "arXiv 2106.02034",
        licence="MIT",
        training="trained: runs from a checkpoint of predictors",
        knob="k",
        knob_meaning="keep rate: int(n k^i) of n patches go on from the i-th place, 0 < k <= 1",
        fixed_count=True,
        deviations="distillation and register tokens are protected; where nothing is to be dropped "
        "the patches keep their order and no predictor runs",
    ),
)
@dataclass
class DynamicViT(Reducer):
    """Keep the patches with the highest predictor scores, in the order of falling score.

    The predictors of a checkpoint belong to its backbone, which the authors fine-tune with them:
    load both from one file.

    Attributes:
        k: keep rate.
        blocks: blocks before which patches are dropped, counted from 0 as the authors do; None =
            at L/4, L/2 and 3L/4: 3, 6, 9 of 12.
        checkpoint: safetensors or torch file with one predictor for each of them, under
            ``score_predictor.<i>.`` (the authors' name) or ``predictor.<i>.``; other keys are
            ignored.
    """

    k: float = 0.7
    blocks: list | None = None
    checkpoint: str | None = None
    site = "before"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FEATURES})

    def check(self, batch: Batch) -> None:
        if not 0 < self.k <= 1:
            raise BadValueError(f"dynamicvit: k={self.k} is a keep rate: give a value in (0, 1].")
        if self.checkpoint is None:
            raise BadValueError(
                "dynamicvit: its predictors have to be trained, random ones mean nothing. Give "
                "checkpoint=<file>; method=random is the control without predictors."
            )
        blocks = locations(self.name, self.blocks, batch.depth)
        found = len(load_predictors(self.checkpoint))
        if found != len(blocks):
            raise BadValueError(
                f"dynamicvit: {found} predictors in {self.checkpoint} for {len(blocks)} places, "
                f"blocks={list(blocks)}."
            )
        if blocks and int(batch.patches * self.k ** len(blocks)) < 1:
            raise BadValueError(
                f"dynamicvit: k={self.k} leaves none of {batch.patches} patches after "
                f"{len(blocks)} places."
            )

    def begin(self, batch: Batch) -> Stages:
        blocks = locations(self.name, self.blocks, batch.depth)
        counts = [int(batch.patches * self.k**place) for place in range(1, len(blocks) + 1)]
        keep = dict(zip(blocks, counts, strict=True))
        loaded = load_predictors(str(self.checkpoint), batch.device)
        return Stages(keep, dict(zip(blocks, loaded, strict=True)))

    def watch(self, block: int, state: Stages) -> bool:
        return block - 1 in state.keep and self.k < 1

    def macs(self, view: View, state: Stages) -> int:
        return state.predictors[view.block - 1].macs * (view.size.shape[1] - view.prefix)

    def decide(self, view: View, state: Stages) -> Reduction:
        predictor, patches = state.predictors[view.block - 1], view.features[:, view.prefix :]
        if patches.shape[-1] != predictor.width:
            raise WeightsError(
                f"dynamicvit: the predictors of {self.checkpoint} read {predictor.width} features, "
                f"the model has {patches.shape[-1]}. Give the checkpoint made for this model."
            )
        score = predictor(patches.float())[..., 0]
        rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        slot = torch.where(rank < state.keep[view.block - 1], view.prefix + rank, DROPPED)
        front = torch.arange(view.prefix, device=slot.device).expand(len(slot), -1)
        return Reduction(torch.cat([front, slot], 1))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        places = max(1, len(locations(self.name, self.blocks, batch.depth)))
        # A hair above the rate that leaves one patch: a power's rounding must not leave none.
        return batch.patches ** (-1 / places) + 1e-6, 1.0


class Predictor(nn.Module):
    """Scores patches; parameters are named as in the authors' checkpoints."""

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
        self.width = width
        linear = [m for m in self.modules() if isinstance(m, nn.Linear)]
        self.macs = sum(m.weight.numel() for m in linear)
        """MACs per patch."""

    def forward(self, patches: Tensor) -> Tensor:
        """``[b, n, 2]`` log-probabilities of keep and drop from ``[b, n, D]`` features."""
        local, shared = self.in_conv(patches).split([self.width // 2, (self.width + 1) // 2], -1)
        context = shared.mean(1, keepdim=True).expand_as(shared)
        return self.out_conv(torch.cat([local, context], -1))


def load_predictors(checkpoint: str, device: torch.device | str = "cpu") -> tuple[Predictor, ...]:
    """The predictors of a file by their number, fp32, in eval mode; a file is read once.

    Raises:
        WeightsError: no such file, not a checkpoint, or predictors missing or of another shape.
    """
    file = Path(checkpoint).expanduser()
    try:
        written = file.stat().st_mtime_ns
    except OSError as error:
        raise WeightsError(f"checkpoint={checkpoint} cannot be read: {error}.") from error
    return _predictors(file, written, str(device))


@lru_cache(maxsize=4)
def _predictors(checkpoint: Path, written: int, device: str) -> tuple[Predictor, ...]:
    """``written`` is part of the key only: a file that training wrote anew is read anew."""
    grouped: dict[int, dict[str, Tensor]] = {}
    for key, value in _read(checkpoint).items():
        if match := re.search(r"(?:^|\.|_)predictor\.(\d+)\.(.+)$", key):
            grouped.setdefault(int(match[1]), {})[match[2]] = value
    if sorted(grouped) != list(range(len(grouped))) or not grouped:
        raise WeightsError(
            f"checkpoint={checkpoint} holds predictors {sorted(grouped) or '(none)'}; wanted are "
            "score_predictor.0, .1, ... as DynamicViT's own training saves them."
        )
    loaded = []
    for number in range(len(grouped)):
        state = grouped[number]
        try:
            predictor = Predictor(len(state["in_conv.0.weight"]))
            predictor.load_state_dict(state, strict=True)
        except (KeyError, RuntimeError, TypeError) as error:
            raise WeightsError(
                f"Predictor {number} of checkpoint={checkpoint} does not fit: {error}."
            ) from error
        loaded.append(predictor.float().eval().requires_grad_(False).to(device))
    return tuple(loaded)


def _read(path: Path) -> Mapping[str, Any]:
    """The tensors of a file, also where training saved them as its ``model`` or ``state_dict``."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Training scripts keep their arguments in a Namespace: plain data, safe to restore.
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in either reader
        raise WeightsError(
            f"checkpoint={path} cannot be read ({type(error).__name__}: {error}). Give a "
            ".safetensors file or a torch file of tensors alone."
        ) from error
    for nest in ("model", "state_dict"):
        found = found.get(nest, found) if isinstance(found, Mapping) else {}
    return found
