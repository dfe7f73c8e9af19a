"""Files of golden/vlm beside the checkout, as golden tests of several methods read them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from project import SHARED
from safetensors.torch import load_file
from torch import Tensor

from asap_eval.packing import Crops

FOLDER = "golden/vlm"
FEATURES, LOGITS = 1e-4, 1e-3
"""Absolute tolerances of the folder's README; indices and masks are compared exactly."""


def files(method: str, pattern: str, *common: str) -> pytest.MarkDecorator:
    """Parametrizes a test by ``stem``, one case per file, marked with it and with common inputs."""
    stems = sorted(path.stem for path in SHARED.glob(f"{FOLDER}/{method}/{pattern}.safetensors"))
    cases = [
        pytest.param(
            stem,
            marks=pytest.mark.golden(
                *(f"{FOLDER}/{name}.safetensors" for name in (f"{method}/{stem}", *common))
            ),
        )
        for stem in stems or [pattern]
    ]
    return pytest.mark.parametrize("stem", cases)


def read(name: str) -> dict[str, Tensor]:
    """The tensors of one file, by its path under golden/vlm without the suffix."""
    return load_file(SHARED / FOLDER / f"{name}.safetensors")


def close(got: Tensor, expected: Tensor, tolerance: float = FEATURES) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


def inputs(stem: str) -> dict[str, Tensor]:
    """``cls_attn [B, H, N]``, ``hidden [B, N, D]`` and ``key_mean [B, N, d]`` that a function-level
    file was made from; its name says which."""
    return read("common/" + "_".join(stem.split("_")[1:3]))


def project(x: Tensor) -> Tensor:
    """The golden models' projector, ``[..., 32] -> [..., 32]``; both models share it."""
    weights = read("host/llava/model")
    first, second = (f"multi_modal_projector.linear_{i}" for i in (1, 2))
    hidden = F.gelu(F.linear(x, weights[f"{first}.weight"], weights[f"{first}.bias"]))
    return F.linear(hidden, weights[f"{second}.weight"], weights[f"{second}.bias"])


def crops(kept: Tensor, tokens: int, stem: str) -> Crops:
    """What a method packs, of the tiles that a file's name tells.

    Args:
        kept: ``[C, n]`` patches of the slots 1 .. n of each crop, slot 0 being the class token.
        tokens: tokens of a crop; slots after n hold no patch.
    """
    count = len(kept)
    source = torch.full((count, 576), -1)
    source.scatter_(1, kept, torch.arange(1, kept.shape[1] + 1).expand_as(kept))
    rows, columns = (int(n) for n in stem.split("_")[2].split("x"))
    return Crops(
        crop=torch.arange(count).repeat_interleave(tokens),
        slot=torch.arange(tokens).repeat(count),
        source=source,
        grid=(24, 24),
        tiles=(rows, columns),
        padding=(0, 0),
    )
