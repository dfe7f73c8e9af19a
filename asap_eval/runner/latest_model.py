"""The model that was loaded last: kept for the next job, since the rows of a table mostly share it.

It goes before another one is loaded: two may not fit into memory.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch

from asap_eval.bench.bench import Loaded, bench_class
from asap_eval.models import ModelSpec, load_model, load_vlm
from asap_eval.models.spec import find
from asap_eval.record import Job

_latest: dict[tuple[object, ...], Loaded] = {}
"""At most one model, by all that says which."""


def spec_of(job: Job) -> ModelSpec:
    """What the model of a job is built from."""
    return ModelSpec(job.model, **job.model_params) if job.model_params else find(job.model)


def load(job: Job, device: str | None = None) -> Loaded:
    """The model of a job, of the kind its benchmark takes.

    Args:
        device: where it lies; None = where the job says.
    """
    device = device or job.device
    vlm = bench_class(job.bench).vlm
    named = (job.model, json.dumps(job.model_params), job.weights, device, job.dtype, vlm)
    if named not in _latest:
        forget()
        take: Callable[..., Loaded] = load_vlm if vlm else load_model
        spec = spec_of(job)
        # Elsewhere than the job says nothing is computed, and one device holds all of it.
        whole = spec if device == job.device else replace(spec, device_map=None)
        found = take(whole, weights=job.weights, device=device, dtype=job.dtype)
        _latest[named] = found if whole == spec else replace(cast(Any, found), spec=spec)
    return _latest[named]


def forget() -> None:
    """Give the model back: another process is to have its place on the device."""
    _latest.clear()
    free_memory()


def free_memory() -> None:
    """Give back what nothing refers to any more, on a GPU to whatever is loaded next."""
    gc.collect()  # modules and their hooks refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
