"""Files of golden/vlm beside the checkout, as golden tests of several methods read them."""

from __future__ import annotations

import pytest
import torch
from project import SHARED
from safetensors.torch import load_file
from torch import Tensor

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
