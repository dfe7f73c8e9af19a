"""Checkpoints: read without running code, fit strictly, hashed."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.errors import WeightsError

_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts keep the weights; averaged weights first, as timm does."""

_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every key."""

_SHOWN = 5
"""Keys named in an error before "and n more"."""


@dataclass(frozen=True)
class WeightsInfo:
    """Which weights a model has.

    Attributes:
        name: path of the file, ``hub:<repo>/<file>``, ``bundled:<file>`` or ``random:seed=0``.
        sha256: of the file; of the tensors (`tensors_sha256`) where there is none.
        trained: False for random initialisation.
        entry: key of the checkpoint the weights were nested under, "" = none.
        head_sha256: of the file of a zero-shot head, "" = none.
    """

    name: str
    sha256: str
    trained: bool
    entry: str = ""
    head_sha256: str = ""


def load_weights(model: nn.Module, path: Path, name: str) -> WeightsInfo:
    """Fill a model from a file; every key and shape must fit, values take the model's dtype."""
    state, entry = read_checkpoint(path)
    fit(model, state, name)
    return WeightsInfo(name, file_sha256(path), trained=True, entry=entry)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors or torch file, and the entry they were nested under.

    Raises:
        WeightsError: no such file, not a checkpoint, or a pickle that wants to run code.
    """
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(
            f"weights={path} {kind}. Give a .safetensors file or a torch file (.pt, .pth, .bin)."
        )
    raw = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    entry = next((key for key in _NESTS if isinstance(raw.get(key), Mapping)), "")
    state = dict(raw[entry] if entry else raw)
    strange = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strange or not state:
        what = f"'{strange[0]}' is no tensor" if strange else "it is empty"
        raise WeightsError(
            f"weights={path} is not a state dict: {what}. Save `model.state_dict()`, alone or "
            f"under one of the keys {', '.join(_NESTS)}."
        )
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state, entry


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"weights={path} is not a whole safetensors file ({error}). Fetch it again."
        ) from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    # Training scripts keep their arguments in a Namespace: plain data, safe to restore.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            raw = torch.load(path, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file can fail anywhere in the unpickler
            raise _unreadable(path, error) from error
    if not isinstance(raw, Mapping):
        raise WeightsError(
            f"weights={path} holds a {type(raw).__name__}, not a state dict. "
            "Save `model.state_dict()`."
        )
    return raw


def _unreadable(path: Path, error: Exception) -> WeightsError:
    """The error for a torch file that the weights-only reader refuses."""
    code = re.search(r"(?:GLOBAL|global|class|function) ([\w.]+\.[\w.]+)", str(error))
    if code and "weights_only" in str(error).lower().replace(" ", "_"):
        return WeightsError(
            f"weights={path} was refused: the pickle asks for '{code[1]}', which is more than "
            "tensors and could run code. Nothing of it was run. If you trust its source, convert "
            "it where it was made: torch.save(model.state_dict(), file), or save_file of "
            "safetensors."
        )
    first = str(error).strip().split("\n")[0]
    return WeightsError(
        f"weights={path} cannot be read as a torch file ({type(error).__name__}: {first}). "
        "Give a .safetensors file or a torch file (.pt, .pth, .bin)."
    )


def fit(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load a state dict strictly; the error names the first keys that do not fit."""
    own = model.state_dict()
    faults = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    found = [f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in faults.items() if keys]
    if found:
        raise WeightsError(
            f"The weights {name} do not fit the model. Keys {'; '.join(found)}. "
            "Check that `model=` names the architecture these weights were trained for."
        )
    model.load_state_dict(dict(state), strict=True)


def _first(keys: list[str]) -> str:
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def tensors_sha256(model: nn.Module) -> str:
    """Hex digest over names, dtypes, shapes and values of a model's state dict."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
