"""``device=auto``, ``dtype=auto``, ``batch_size=auto`` and ``workers=auto``: what fits the machine.

They become plain values before a job is made, so that its key and its record have those. On a CPU
they are the values that were the defaults before, and no number depends on ``auto``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import torch

from asap_eval.cli.keys import Keys
from asap_eval.errors import BadValueError, WeightsError
from asap_eval.hub.errors import address, explained
from asap_eval.hub.files import fetch
from asap_eval.models import ModelSpec
from asap_eval.models.zoo import DTYPES

AUTO = "auto"
DTYPE_WORDS = {
    **dict.fromkeys(("fp16", "half"), "float16"),
    **dict.fromkeys(("bf16",), "bfloat16"),
    **dict.fromkeys(("fp32", "float"), "float32"),
}
"""What else a precision is called."""

ON_CPU = 32
"""Images in a batch on a CPU, whatever is measured."""
ON_GPU = 128
"""Images in a batch on a GPU: what fits 8 GB with a base model and its attention maps."""
ON_GPU_OF = {"vlm": 8, "latency": 1}
"""Questions in a batch of a 7B model on 24 GB; a latency is that of one answer."""
MOST_WORKERS = 8
"""Processes that load images for a GPU, of the cores that are there."""


@dataclass(frozen=True)
class Fitted:
    """What a job runs on, each value a plain one."""

    device: str
    dtype: str
    batch_size: int
    workers: int

    def said(self, keys: Keys) -> str:
        """The values that were chosen here, as a person would give them; "" = none."""
        chosen = [key for key in vars(self) if getattr(keys, key) == AUTO]
        return " ".join(f"{key}={getattr(self, key)}" for key in chosen)


def fitted(keys: Keys, spec: ModelSpec, bench: str) -> Fitted:
    """The values of the keys, ``auto`` replaced.

    Raises:
        BadValueError: a value that is neither ``auto`` nor a number. WeightsError: a checkpoint's
            dtype is asked for, and the checkpoint is not to be had.
    """
    device = device_of(keys.device)
    on_cpu = device == "cpu"
    dtype = DTYPE_WORDS.get(keys.dtype, keys.dtype)
    if dtype == AUTO:
        dtype = _checkpoints(spec, keys) if spec.vlm and not on_cpu else "float32"
    batch_size = ON_CPU if on_cpu else ON_GPU_OF.get(bench, ON_GPU)
    return Fitted(
        device,
        dtype,
        _number("batch_size", keys.batch_size, batch_size),
        _number("workers", keys.workers, workers_for(device)),
    )


def workers_for(device: str) -> int:
    """Processes that load images for a device: a CPU's model needs its cores itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 0 if device == "cpu" else min(MOST_WORKERS, (cores or 1) - 1)


def device_of(word: str) -> str:
    """A device as torch calls it: ``gpu`` and ``0`` are GPUs, ``auto`` one where there is one."""
    if word == AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if word.isdecimal():
        return f"cuda:{word}"
    return word.replace("gpu", "cuda", 1) if word.startswith("gpu") else word


def _number(key: str, text: str, fitting: int) -> int:
    if text == AUTO:
        return fitting
    try:
        return int(text)
    except ValueError:
        raise BadValueError(f"{key}={text!r}: give a whole number, or {AUTO}.") from None


def _checkpoints(spec: ModelSpec, keys: Keys) -> str:
    """The dtype in which a vision-language model's weights are stored."""
    place = keys.weights or spec.hf
    if place in (None, "random"):
        return "float32"
    config = Path(place).expanduser() / "config.json"
    if not config.is_file():
        found = _of_hub(str(place), fetching=not keys.plan)
        if found is None:
            return "float32"  # a plan; it says that the weights are missing
        config = found
    try:
        said = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{config} cannot be read: {error}") from error
    dtype = said.get("dtype") or said.get("torch_dtype") or "float32"
    return dtype if dtype in DTYPES else "float32"


def _of_hub(repository: str, *, fetching: bool) -> Path | None:
    if not fetching:
        cached = huggingface_hub.try_to_load_from_cache(repository, "config.json")
        return Path(cached) if isinstance(cached, str) else None
    try:
        return fetch(repository, "config.json").path
    except Exception as error:
        what = f"The configuration of {repository}"
        raise WeightsError(explained(error, what, address(repository))) from error
