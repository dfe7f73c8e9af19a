"""Files of named tensors, put in place whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from asap_eval.files.placed import placed


def save_tensors(tensors: Mapping[str, Tensor], path: Path, notes: Mapping[str, str]) -> None:
    """Write a safetensors file: all of it or nothing, as `placed`.

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
    with placed(path) as part:
        part.write_bytes(content)
