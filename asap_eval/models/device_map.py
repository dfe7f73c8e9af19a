"""A vision-language model over several GPUs of one machine: which part lies on which.

Layers of the language model are spread evenly; the vision tower stays whole on the first GPU, where
a run's inputs go. accelerate moves what passes from one part to the next. Nothing goes to the
memory of the machine or to its disk: a run would wait for it at every token.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from asap_eval.errors import BadValueError, UnsupportedModelError

AUTO = "auto"
ROOM = 0.9
"""Share of a GPU's free memory that weights may take; the rest is for what passes."""
_GB = 1e9


def check_device_map(given: str | None, device: torch.device) -> None:
    """Refuse what cannot be spread, before anything is loaded.

    Raises:
        BadValueError: another word than ``auto``, or a device that is not all GPUs.
        UnsupportedModelError: accelerate is missing.
    """
    if given is None:
        return
    if given != AUTO:
        raise BadValueError(
            f"model.device_map={given}: give {AUTO}, which spreads the language model's layers "
            "over all GPUs of CUDA_VISIBLE_DEVICES, or leave it out."
        )
    if device.type != "cuda" or device.index:
        raise BadValueError(
            f"model.device_map={AUTO} with device={device}: it spreads over the GPUs that "
            "CUDA_VISIBLE_DEVICES names, from the first on. Use device=cuda, or leave it out."
        )
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise UnsupportedModelError(
            f"model.device_map={AUTO} needs accelerate: pip install 'asap-eval[vlm]'."
        ) from error


def free_memory() -> dict[int, int]:
    """Bytes that are free on each GPU this process sees, by its number."""
    return {at: torch.cuda.mem_get_info(at)[0] for at in range(torch.cuda.device_count())}


def placed_on(shape: Any, dtype: torch.dtype, free: Mapping[int, int]) -> dict[str, int]:
    """The GPU of each part of a model, by the part's name; layers and the tower stay whole.

    Args:
        shape: the model on the meta device. free: bytes by GPU.

    Raises:
        BadValueError: it does not fit.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = [
        type(shape.model.vision_tower).__name__,
        type(shape.model.language_model.layers[0]).__name__,
    ]
    limits: dict[int | str, int | str] = {at: int(ROOM * count) for at, count in free.items()}
    with _quiet():
        even = get_balanced_memory(
            shape, max_memory=dict(limits), dtype=dtype, no_split_module_classes=whole
        )
        found: Mapping[str, Any] = infer_auto_device_map(
            shape, max_memory=even, dtype=dtype, no_split_module_classes=whole
        )
    if not all(isinstance(at, int) for at in found.values()):
        needed = sum(p.numel() for p in shape.parameters()) * dtype.itemsize / _GB
        have = " + ".join(f"{count / _GB:.1f}" for count in free.values())
        raise BadValueError(
            f"model.device_map={AUTO}: the weights take {needed:.1f} GB as {dtype}, and the GPUs "
            f"have {have} GB free, of which {ROOM:.0%} are for weights. Take more GPUs "
            "(CUDA_VISIBLE_DEVICES, launch.gpus) or dtype=bfloat16."
        )
    return dict(found)


def spread(model: Any, device_map: Mapping[str, int]) -> nn.Module:
    """A model that is in memory, put onto several GPUs."""
    from accelerate import dispatch_model

    skip = getattr(model, "_skip_keys_device_placement", None)
    found: nn.Module = dispatch_model(model, dict(device_map), skip_keys=skip)
    return found


def placement(model: Any) -> dict[str, Any]:
    """Where the parts of a model lie, for a record's machine; {} = on one device.

    Returns:
        ``device_map``: GPU by part. ``gpus``: name of each GPU.
    """
    given: Mapping[str, Any] = getattr(model, "hf_device_map", {})
    used = sorted(set(given.values()), key=str)
    if len(used) < 2:
        return {}
    return {
        "device_map": {part: f"cuda:{at}" for part, at in given.items()},
        "gpus": {f"cuda:{at}": torch.cuda.get_device_name(at) for at in used},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """accelerate warns of GPUs that it is told of and that this machine lacks."""
    logger = logging.getLogger("accelerate")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
