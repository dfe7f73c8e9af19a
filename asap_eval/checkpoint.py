"""Checkpoint files: read without running code, and what they say of themselves."""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asap_eval.errors import WeightsError

_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts keep the weights; averaged weights first, as timm does."""

_CLASSES = ("classes", "class_names", "class_to_idx")
"""Keys under which training scripts keep what the classes are called."""

_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every key."""


def read_checkpoint(path: Path, option: str = "weights") -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors or torch file, and the entry they were nested under.

    Args:
        option: what the user gave the file as, for errors.

    Raises:
        WeightsError: no such file, not a checkpoint, or a pickle that wants to run code.
    """
    check_there(path, option)
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    raw = read(path, option)
    entry = next((key for key in _NESTS if isinstance(raw.get(key), Mapping)), "")
    state = dict(raw[entry] if entry else raw)
    strange = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strange or not state:
        what = f"'{strange[0]}' is no tensor" if strange else "it is empty"
        raise WeightsError(
            f"{option}={path} is not a state dict: {what}. Save `model.state_dict()`, alone or "
            f"under one of the keys {', '.join(_NESTS)}."
        )
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state, entry


def check_there(path: Path, option: str = "weights") -> None:
    """Raise `WeightsError` where no file is."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(
            f"{option}={path} {kind}. Give a .safetensors file or a torch file (.pt, .pth, .bin)."
        )


def stamped(path: str, option: str) -> tuple[Path, int]:
    """A file and when it was written, so that one that is written anew is read anew.

    Raises:
        WeightsError: it cannot be looked at.
    """
    file = Path(path).expanduser()
    try:
        return file, file.stat().st_mtime_ns
    except OSError as error:
        raise WeightsError(f"{option}={path} cannot be read: {error}.") from error


def check_safetensors(path: Path, option: str) -> None:
    """Whether a safetensors file is all there, by its header.

    Raises:
        WeightsError: it is cut off, or something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise _cut(path, option, error) from error


def _read_safetensors(path: Path, option: str) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _cut(path, option, error) from error


def _cut(path: Path, option: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"{option}={path} is not a whole safetensors file ({error}). Fetch it again."
    )


def _read_torch(path: Path, option: str, mmap: bool = False) -> Mapping[str, Any]:
    # Training scripts keep their arguments in a Namespace: plain data, safe to restore.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            raw = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file can fail anywhere in the unpickler
            raise _unreadable(path, option, error) from error
    if not isinstance(raw, Mapping):
        raise WeightsError(
            f"{option}={path} holds a {type(raw).__name__}, not a state dict. "
            "Save `model.state_dict()`."
        )
    return raw


def _unreadable(path: Path, option: str, error: Exception) -> WeightsError:
    """The error for a torch file that the weights-only reader refuses."""
    code = re.search(r"(?:GLOBAL|global|class|function) ([\w.]+\.[\w.]+)", str(error))
    if code and "weights_only" in str(error).lower().replace(" ", "_"):
        return WeightsError(
            f"{option}={path} was refused: the pickle asks for '{code[1]}', which is more than "
            "tensors and could run code. Nothing of it was run. If you trust its source, convert "
            "it where it was made: torch.save(model.state_dict(), file), or save_file of "
            "safetensors."
        )
    first = str(error).strip().split("\n")[0]
    return WeightsError(
        f"{option}={path} cannot be read as a torch file ({type(error).__name__}: {first}). "
        "Give a .safetensors file or a torch file (.pt, .pth, .bin)."
    )


def read_classes(path: Path) -> tuple[str, ...] | None:
    """What the classes of a checkpoint are called, in the order of their numbers; None = not said.

    A safetensors file says it in its metadata (``classes``, a JSON list; prose is none), a torch
    file beside its weights: ``classes`` or ``class_names``, a list, or ``class_to_idx``, a number
    for each name.

    Raises:
        WeightsError: what stands there is something else.
    """
    if path.suffix == ".safetensors":
        found = _stated(read_metadata(path).get("classes", ""))
    else:
        raw = _read_torch(path, "weights", mmap=zipfile.is_zipfile(path))
        found = next((raw[key] for key in _CLASSES if key in raw), None)
    if isinstance(found, Mapping) and sorted(found.values()) == list(range(len(found))):
        found = sorted(found, key=found.__getitem__)
    if found is None:
        return None
    if not isinstance(found, (list, tuple)) or not all(isinstance(name, str) for name in found):
        raise WeightsError(
            f"weights={path} says its classes ({', '.join(_CLASSES)}) in a form that is neither a "
            "list of names nor a number for each. Give them as model.classes=<file, one a line>."
        )
    return tuple(found)


def _stated(text: str) -> Any:
    """What the metadata's text holds; None where it is no JSON: people write sentences there."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself; {} for a torch file, which has no place."""
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})
