"""Files of named tensors, put in place whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from asap_eval.files.placed import placed

_LENGTH = 8
"""Bytes in front of a header that say how long it is."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path, notes: Mapping[str, str]) -> None:
    """Write a safetensors file: all of it or nothing, as `placed`. Equal tensors and notes give
    equal bytes.

    Args:
        tensors: of any device and layout; some may share memory. notes: the file's metadata.

    Raises:
        OSError: as `placed`.
    """
    # safetensors refuses memory that two tensors share. Its own writing to a file says of a full
    # disk something that is no OSError, and lets nobody but the owner read the file.
    whole = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    content = save(whole, dict(notes))
    size = int.from_bytes(content[:_LENGTH], "little")
    with placed(path) as part, part.open("wb") as file:
        file.write(_ordered(content[_LENGTH : _LENGTH + size]))
        file.write(memoryview(content)[_LENGTH + size :])


def _ordered(header: bytes) -> bytes:
    """A header with its length in front, and its notes in order: safetensors' own is random."""
    said = json.loads(header)
    said["__metadata__"] = dict(sorted(said["__metadata__"].items()))
    text = json.dumps(said, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH)  # tensors begin at a multiple of this
    return len(text).to_bytes(_LENGTH, "little") + text
