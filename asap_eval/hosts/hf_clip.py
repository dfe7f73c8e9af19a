"""Hugging Face CLIP's vision tower (`CLIPVisionModel`, with or without projection)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from asap_eval.errors import UnsupportedModelError
from asap_eval.hosts.backbone import Backbone, Half
from asap_eval.hosts.geometry import Geometry, block_geometry, convolution_macs, linear_macs
from asap_eval.hosts.overriding import Function, override

TOWERS = ("CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPVisionTransformer")


def recognises(model: nn.Module) -> bool:
    """By class name, so that transformers is not imported for people who do not use it.

    A model that offers a ``tower`` of these and what follows it is one, too.
    """
    of = type(getattr(model, "tower", model))
    return of.__name__ in TOWERS and of.__module__.startswith("transformers.")


def backbone(model: Any) -> Backbone:
    """The tower as the seam needs it; `UnsupportedModelError` names what cannot be run."""
    # Releases of transformers differ in how many wrappers stand around embeddings and encoder.
    outer = tower = getattr(model, "tower", model)
    while not hasattr(tower, "embeddings") and hasattr(tower, "vision_model"):
        tower = tower.vision_model
    if not hasattr(tower, "embeddings") or not hasattr(tower, "encoder"):
        raise UnsupportedModelError(f"{type(model).__name__} has no embeddings and encoder.")
    for number, layer in enumerate(tower.encoder.layers, 1):
        if type(layer).__name__ != "CLIPEncoderLayer":
            raise UnsupportedModelError(
                f"Layer {number} is a {type(layer).__name__}; only CLIPEncoderLayer is supported."
            )
    return Backbone(
        model=model,
        embed=tower.embeddings,
        blocks=list(tower.encoder.layers),
        chain=tower.encoder,
        norm=None,  # it follows the class token alone
        halves=_halves,
        attention=lambda block: block.self_attn,
        geometry=_geometry(model, tower),
        fused=lambda: fused(outer),
        patched=lambda _installed: _patched(outer),
        image_size=(tower.config.image_size, tower.config.image_size),
        resizable=lambda: _resizable(tower.embeddings),
    )


def _halves(layer: Any) -> tuple[Half, Half]:
    """CLIPEncoderLayer.forward's two residual halves."""

    def attention(x: Tensor) -> Tensor:
        normed = layer.layer_norm1(x)
        return x + layer.self_attn(hidden_states=normed, attention_mask=None)[0]

    def mlp(x: Tensor) -> Tensor:
        return x + layer.mlp(layer.layer_norm2(x))

    return attention, mlp


def queries_and_keys(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer would make of ``[B, N, D]``: ``[B, H, N, d]`` each, biases in, unscaled."""
    attention, normed = layer.self_attn, layer.layer_norm1(x)
    shape = (*x.shape[:2], attention.num_heads, attention.head_dim)
    q, k = (p(normed).view(shape).transpose(1, 2) for p in (attention.q_proj, attention.k_proj))
    return q, k


def queries_and_keys_macs(layer: Any) -> int:
    """MACs per token of `queries_and_keys`."""
    return linear_macs(layer.self_attn.q_proj) + linear_macs(layer.self_attn.k_proj)


def _geometry(model: Any, tower: Any) -> Geometry:
    config = tower.config
    side = config.image_size // config.patch_size
    return Geometry(
        family=type(model).__name__,
        blocks=tuple(block_geometry(layer.self_attn, layer.mlp) for layer in tower.encoder.layers),
        width=config.hidden_size,
        prefix=1,
        grid=(side, side),
        has_cls=True,
        stem_patch_macs=convolution_macs(tower.embeddings.patch_embedding),
        head_macs=linear_macs(model) - linear_macs(tower),
        clip=True,
    )


@contextmanager
def _patched(model: Any) -> Iterator[None]:
    """Refuse a tower that is to return its attention, which is fused here."""
    if model.config.output_attentions:
        raise UnsupportedModelError(
            "config.output_attentions cannot be had with token reduction, whose attention is "
            "fused: set it to False."
        )
    yield


@contextmanager
def fused(model: Any) -> Iterator[None]:
    """Fused attention for the time of the ``with``: eager attention cannot be intercepted."""
    before = model.config._attn_implementation
    if before != "sdpa":
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if before != "sdpa":
            model.set_attn_implementation(before)


def _resizable(embeddings: Any) -> AbstractContextManager[None]:
    """The tower's own path for images of any size, whatever its caller says."""

    def make(before: Function) -> Function:
        def forward(pixel_values: Tensor, interpolate_pos_encoding: bool = True) -> Any:
            return before(pixel_values, interpolate_pos_encoding=True)

        return forward

    return override(embeddings, "forward", make)
