"""Trained predictors of patch scores, and the files they live in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.checkpoint import read_checkpoint, read_metadata, stamped
from asap_eval.errors import WeightsError
from asap_eval.files.digests import file_sha256

FORMAT = "asap-eval predictors 1"
"""``format`` in the metadata of a file that this package wrote."""

TRAINED = "predictor trained by us"
"""What such a file, and tables, say of rows with its predictors."""

Inputs = tuple[Tensor, ...]
"""What a predictor reads: the weight of each patch ``[b, P]`` (0 = masked in training, else 1), and
tensors ``[b, P, n]`` of values of each patch."""


class Predictor(nn.Module):
    """Scores patches: ``[b, P, 2]`` log-probabilities of keep and drop from `Inputs`."""

    sizes: tuple[int, ...]
    """Values of a patch in each tensor it reads."""

    @property
    def macs(self) -> int:
        """MACs per patch."""
        linear = (m for m in self.modules() if isinstance(m, nn.Linear))
        return sum(m.weight.numel() for m in linear)


Restore = Callable[[Mapping[str, Tensor]], Predictor]
"""A predictor with the shapes of a state dict."""


def load_predictors(
    checkpoint: str, method: str, restore: Restore, device: torch.device | str = "cpu"
) -> tuple[Predictor, ...]:
    """The predictors of a file by their number, fp32, in eval mode; a file is read once.

    Raises:
        WeightsError: no such file, not a checkpoint, predictors missing or of another shape, or
            made for another method.
    """
    return _loaded(*stamped(checkpoint, "checkpoint"), method, restore, str(device))


def origin(checkpoint: str) -> dict[str, Any]:
    """``checkpoint``, its ``sha256``, and what `asap-eval train` put into it."""
    return _origin(*stamped(checkpoint, "checkpoint"))


def numbered(predictors: Mapping[int, Predictor]) -> dict[str, Tensor]:
    """What a file of predictors holds; they are numbered in order of their place."""
    return {
        f"score_predictor.{number}.{key}": value
        for number, place in enumerate(sorted(predictors))
        for key, value in predictors[place].state_dict().items()
    }


def _said(file: Path) -> dict[str, str]:
    found = read_metadata(file)
    return found if found.get("format") == FORMAT else {}


@lru_cache(maxsize=4)
def _origin(file: Path, written: int) -> dict[str, Any]:
    return {"checkpoint": str(file), "sha256": file_sha256(file), **_said(file)}


@lru_cache(maxsize=4)
def _loaded(
    file: Path, written: int, method: str, restore: Restore, device: str
) -> tuple[Predictor, ...]:
    tensors, _ = read_checkpoint(file, "checkpoint")
    made_for = _said(file).get("method", method)
    if made_for != method:
        raise WeightsError(
            f"checkpoint={file} holds predictors of method={made_for}, not of {method}."
        )
    grouped: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if match := re.search(r"(?:^|\.|_)predictor\.(\d+)\.(.+)$", key):
            grouped.setdefault(int(match[1]), {})[match[2]] = value
    if sorted(grouped) != list(range(len(grouped))) or not grouped:
        raise WeightsError(
            f"checkpoint={file} holds predictors {sorted(grouped) or '(none)'}; wanted are "
            "score_predictor.0, .1, ... as training saves them."
        )
    loaded = []
    for number in sorted(grouped):
        try:
            predictor = restore(grouped[number])
            predictor.load_state_dict(grouped[number], strict=True)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise WeightsError(
                f"Predictor {number} of checkpoint={file} does not fit {method}: {error}."
            ) from error
        loaded.append(predictor.float().eval().requires_grad_(False).to(device))
    return tuple(loaded)
