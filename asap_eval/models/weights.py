"""Weights of a model: fit strictly, hashed, and what of a checkpoint is not the model's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from asap_eval.checkpoint import read_checkpoint
from asap_eval.errors import WeightsError, some_of
from asap_eval.files.digests import file_sha256

PREDICTORS = "score_predictor."
"""Keys of DynamicViT's predictors, which its authors save with the backbone: a method reads them
from the same file, no model has them."""

_SHOWN, _MORE = 5, " and {} more"
"""Keys named in an error before "and n more"."""


@dataclass(frozen=True)
class WeightsInfo:
    """Which weights a model has.

    Attributes:
        name: path of the file, ``hub:<repo>/<file>``, ``bundled:<file>`` or ``random:seed=0``.
        sha256: of the file, or of all files of a folder that are read; of the tensors
            (`tensors_sha256`) where there is none.
        trained: False for random initialisation.
        entry: key of the checkpoint the weights were nested under, "" = none.
        head_sha256: of the file of a zero-shot head, "" = none.
        left_out: what of the file is knowingly not loaded into the model, "" = nothing.
        commit: of the hub's repository, "" = not from a hub.
    """

    name: str
    sha256: str
    trained: bool
    entry: str = ""
    head_sha256: str = ""
    left_out: str = ""
    commit: str = ""


def load_weights(model: nn.Module, path: Path, name: str) -> WeightsInfo:
    """Fill a model from a file; every key and shape must fit, values take the model's dtype.

    Token predictors saved with a backbone are left out, and the result says so.
    """
    state, entry = read_checkpoint(path)
    own = {key: value for key, value in state.items() if not key.startswith(PREDICTORS)}
    fit(model, own, name)
    count = len(state) - len(own)
    left_out = f"{count} tensors of token predictors ({PREDICTORS}*)" if count else ""
    return WeightsInfo(name, file_sha256(path), trained=True, entry=entry, left_out=left_out)


def fit(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load a state dict strictly; the error names the first keys that do not fit."""
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    kinds = [
        f"{key} {state[key].dtype} instead of {own[key].dtype}"
        for key in own
        if key in state and state[key].is_floating_point() != own[key].is_floating_point()
    ]
    if missing or unexpected or shapes or kinds:
        raise misfit(name, missing, unexpected, shapes, kinds)
    model.load_state_dict(dict(state), strict=True)


def misfit(
    name: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    shapes: Sequence[str] = (),
    kinds: Sequence[str] = (),
) -> WeightsError:
    """The error for weights that leave a gap in a model or have no place in it.

    Args:
        missing, unexpected: keys. shapes, kinds: keys with both shapes, or types, in words.
    """
    faults = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": shapes,
        "of another type": kinds,
    }
    found = [
        f"{len(keys)} {fault}: {some_of(keys, _SHOWN, _MORE)}"
        for fault, keys in faults.items()
        if keys
    ]
    return WeightsError(
        f"The weights {name} do not fit the model. Keys {'; '.join(found)}. "
        "Check that `model=` names the architecture these weights were trained for."
    )


def tensors_sha256(model: nn.Module) -> str:
    """Hex digest over names, dtypes, shapes and values of a model's state dict."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
