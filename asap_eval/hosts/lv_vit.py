"""LV-ViT: residual branches divided by a constant, and an output in which every patch votes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.hosts.backbone import Backbone, Half, Installed
from asap_eval.hosts.geometry import Geometry, block_geometry, convolution_macs, linear_macs
from asap_eval.hosts.overriding import Function, attributes, override


def recognises(model: nn.Module) -> bool:
    """Whether this host is the one to accept or refuse the model."""
    # By what it offers: hosts know nothing of the models of this package.
    return hasattr(model, "aux_head") and hasattr(model, "vote")


def backbone(model: Any) -> Backbone:
    """The model as the seam needs it."""
    return Backbone(
        model=model,
        embed=model.patch_embed,
        blocks=list(model.blocks),
        chain=model.blocks,
        norm=model.norm,
        halves=_halves,
        attention=lambda block: block.attn,
        geometry=_geometry(model),
        fused=lambda: _fused(model),
        patched=lambda installed: _patched(model, installed),
        image_size=(model.img_size, model.img_size),
        resizable=lambda: _resizable(model),
    )


def _halves(block: Any) -> tuple[Half, Half]:
    return block.attention_half, block.mlp_half


def _geometry(model: Any) -> Geometry:
    embed = model.patch_embed
    half = embed.proj.stride[0] * embed.proj.stride[1]  # positions of a patch at half size
    stem = [convolution_macs(layer, half) for layer in (embed.conv1, embed.conv2, embed.conv3)]
    return Geometry(
        family=type(model).__name__,
        blocks=tuple(block_geometry(block.attn, block.mlp) for block in model.blocks),
        width=model.embed_dim,
        prefix=1,
        grid=model.grid_size,
        has_cls=True,
        stem_patch_macs=sum(stem) + convolution_macs(embed.proj),
        head_macs=linear_macs(model.head),
        head_token_macs=linear_macs(model.aux_head),
        head_skips_prefix=True,
    )


def _fused(model: Any) -> AbstractContextManager[None]:
    """Fused attention in every block."""
    return attributes((block.attn, "fused_attn", True) for block in model.blocks)


@contextmanager
def _patched(model: Any, installed: Installed) -> Iterator[None]:
    """A vote of the patches that are left.

    A merged token has one vote, as any other. An image without a patch left has its class token's
    logits alone.
    """

    def vote(before: Function) -> Function:
        def highest(logits: Tensor) -> Tensor:
            tokens = installed.latest()
            if tokens is None or not tokens.changed:
                return before(logits)
            left = tokens.mask[:, 1:, None]
            votes = logits.masked_fill(~left, -torch.inf)
            # One row more, so that there is a largest where no image has a patch left.
            most = before(torch.nn.functional.pad(votes, (0, 0, 0, 1), value=-torch.inf))
            return most.masked_fill(~left.any(1), 0)

        return highest

    with override(model, "vote", vote):
        yield


def _resizable(model: Any) -> AbstractContextManager[None]:
    """The model's own path for images of any size."""
    return attributes([(model, "dynamic_img_size", True)])
