"""timm's Vision Transformers by name: which of them a host runs, and why not the others."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from asap_eval.errors import UnsupportedModelError
from asap_eval.hosts import backbone_of

DEPTH = 2
"""Blocks that are built to see a model's shapes: all of its blocks do the same work."""

STEMS = {"PatchEmbed": "one convolution", "HybridEmbed": "a CNN"}
POOLS = {"token": "class token", "avg": "mean of the tokens", "map": "attention pooling"}
"""timm's names of stems and poolings, in words."""


def names() -> list[str]:
    """Architectures of the modules of timm that know its `VisionTransformer`."""
    modules = [name for name in timm.list_modules() if _knows_vision_transformers(name)]
    return sorted({name for module in modules for name in timm.list_models(module=module)})


def _knows_vision_transformers(module: str) -> bool:
    return any(
        isinstance(found, type) and issubclass(found, VisionTransformer)
        for found in vars(importlib.import_module(f"timm.models.{module}")).values()
    )


@cache
def shape_of(name: str) -> Any:
    """The model with `DEPTH` blocks on the meta device: every shape, no memory."""
    with torch.device("meta"):
        return timm.create_model(name, depth=DEPTH).eval().requires_grad_(False)


def refusal(name: str) -> str | None:
    """Why no host runs the model, in one sentence; ``None`` = one does."""
    try:
        backbone_of(shape_of(name))
    except UnsupportedModelError as error:
        return str(error)
    return None


def kind(name: str) -> str:
    """Stem and pooling, in words, of a model that a host runs."""
    model = shape_of(name)
    return f"stem: {STEMS[type(model.patch_embed).__name__]}; head: {POOLS[model.global_pool]}"
