"""Which installed packages can change the numbers of a job, and what computes its attention."""

from __future__ import annotations

import importlib.metadata

from asap_eval.bench.bench import AnyBench
from asap_eval.kernels import attention_kernel
from asap_eval.models import ModelSpec
from asap_eval.models.zoo import DTYPES
from asap_eval.record import Job

ALWAYS = ("torch", "torchvision", "pillow")
"""Arithmetic, transforms, decoding."""


def computing(job: Job, bench: AnyBench, spec: ModelSpec) -> dict[str, str]:
    """Versions of the packages that a job computes with, and the kernel of its attention.

    Raises:
        BadValueError, KernelError: the kernel that was asked for cannot be had.
    """
    names = [*ALWAYS, *bench.packages]
    names += ["timm"] if not spec.vlm else ["tokenizers"]
    names += ["transformers"] if spec.hf is not None or spec.vlm else []
    found = {name: version for name in names if (version := _version(name)) is not None}
    kernel = attention_kernel(job.device, DTYPES[job.dtype]).partition(" (")[0]
    return {**found, "attention": kernel}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
