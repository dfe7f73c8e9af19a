"""timm's VisionTransformer: DeiT, DeiT-3, AugReg, DINOv2, SigLIP, CLIP, with a CNN as stem, …"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from timm.layers import Attention, AttentionPoolLatent, Format, HybridEmbed, PatchEmbed
from timm.models._features import FeatureGetterNet, feature_take_indices
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from asap_eval.errors import AsapEvalError, UnsupportedModelError
from asap_eval.hosts.attention import attend
from asap_eval.hosts.backbone import Backbone, Half, Installed
from asap_eval.hosts.geometry import Geometry, block_geometry, convolution_macs, linear_macs
from asap_eval.hosts.layout import Layout
from asap_eval.hosts.operators import stem_patch_macs
from asap_eval.hosts.overriding import Function, attributes, override
from asap_eval.hosts.probe import Probe
from asap_eval.token_map import TokenMap

POOLS = ("token", "avg", "map")

FORWARD = ("forward", "forward_features", "forward_intermediates", "pool", "forward_head")
"""Methods whose code is known: where blocks run, and what reads the tokens that are left."""


def recognises(model: nn.Module) -> bool:
    """Whether this host is the one to accept or refuse the model."""
    return isinstance(_inside(model), VisionTransformer)


def _inside(model: Any) -> Any:
    """The model in timm's wrapper for ``features_only=True``."""
    return model.model if isinstance(model, FeatureGetterNet) else model


def backbone(model: Any) -> Backbone:
    """The model as the seam needs it; `UnsupportedModelError` names what cannot be run."""
    model = _inside(model)
    _check_class(type(model))
    for number, block in enumerate(model.blocks, 1):
        _check_block(block, number)
    _check_pool(model)
    if type(model.patch_embed) not in (PatchEmbed, HybridEmbed):
        raise UnsupportedModelError(
            f"The patch embedding is a {type(model.patch_embed).__name__}; only timm's PatchEmbed "
            "and HybridEmbed are known to make one token of each cell of the grid."
        )
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
        image_size=tuple(model.patch_embed.img_size),
        resizable=lambda: _resizable(model),
    )


def _check_class(cls: type[Any]) -> None:
    own = [name for name in FORWARD if getattr(cls, name) is not getattr(VisionTransformer, name)]
    if own and cls is not VisionTransformerDistilled:
        raise UnsupportedModelError(
            f"{cls.__name__} has its own {', '.join(own)}; only those of timm's VisionTransformer "
            "and distilled DeiT are known to run every block once and to pool what is left."
        )


def _check_block(block: Any, number: int) -> None:
    """Only the plain pre-norm block: its two residual lines are restated in `_halves`."""
    if type(block) is not Block:
        raise UnsupportedModelError(
            f"Block {number} is a {type(block).__name__}; only timm's plain pre-norm Block can be "
            "split between attention and MLP (parallel, post-norm and rotary blocks cannot)."
        )
    if type(block.attn) is not Attention:
        raise UnsupportedModelError(
            f"The attention of block {number} is a {type(block.attn).__name__}; only timm's plain "
            "Attention makes one fused call of queries and keys that a method can read."
        )


def _check_pool(model: Any) -> None:
    pool = getattr(model, "attn_pool", None)
    # Without pooling and classifier the model gives its tokens.
    headless = model.global_pool == "" and isinstance(model.head, nn.Identity)
    if model.global_pool not in POOLS and not headless:
        raise UnsupportedModelError(
            f"Pooling '{model.global_pool}' of {type(model).__name__} is not supported; "
            f"supported: {', '.join(POOLS)}."
        )
    if pool is not None and (type(pool) is not AttentionPoolLatent or pool.pos_embed is not None):
        raise UnsupportedModelError(
            f"The pooling {type(pool).__name__} is not supported; only timm's AttentionPoolLatent "
            "without positions of its own can pool the tokens that are left."
        )


def _halves(block: Any) -> tuple[Half, Half]:
    """timm Block.forward's two lines, each with its LayerScale and its stochastic depth."""

    def attention(x: Tensor) -> Tensor:
        return x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))

    def mlp(x: Tensor) -> Tensor:
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    return attention, mlp


def _geometry(model: Any) -> Geometry:
    grid = tuple(model.patch_embed.grid_size)
    heads = [m for m in (model.head, getattr(model, "head_dist", None)) if m is not None]
    head_macs, head_token_macs = sum(map(linear_macs, heads)), 0
    pool = getattr(model, "attn_pool", None)
    if pool is not None:
        # Keys and values of every token, two products of the latent queries with each of them,
        # and the rest of the pooling layer once per latent.
        inner = pool.num_heads * pool.head_dim
        head_token_macs = linear_macs(pool.kv) + 2 * pool.latent_len * inner
        head_macs += (linear_macs(pool) - linear_macs(pool.kv)) * pool.latent_len
    return Geometry(
        family=type(model).__name__,
        blocks=tuple(block_geometry(block.attn, block.mlp) for block in model.blocks),
        width=model.embed_dim,
        prefix=model.num_prefix_tokens,
        grid=(grid[0], grid[1]),
        has_cls=model.cls_token is not None,
        stem_patch_macs=_stem_patch_macs(model.patch_embed),
        head_macs=head_macs,
        head_token_macs=head_token_macs,
        head_skips_prefix=not getattr(model, "pool_include_prefix", False),
        clip=not isinstance(model.norm_pre, nn.Identity),
    )


def _stem_patch_macs(embed: Any) -> int:
    """One convolution in closed form, a CNN as its operators have it."""
    if type(embed) is PatchEmbed:
        return convolution_macs(embed.proj)
    return stem_patch_macs(embed, embed.img_size, embed.grid_size)


def _fused(model: Any) -> AbstractContextManager[None]:
    """Fused attention wherever there is attention."""
    layers = [block.attn for block in model.blocks]
    layers += [model.attn_pool] if model.attn_pool is not None else []
    return attributes((attention, "fused_attn", True) for attention in layers)


@contextmanager
def _patched(model: Any, installed: Installed) -> Iterator[None]:
    """A pooling that knows which tokens are padding, and features of blocks by patch."""

    def pool(before: Function) -> Function:
        def forward(x: Tensor, pool_type: str | None = None) -> Tensor:
            kind = model.global_pool if pool_type is None else pool_type
            if model.attn_pool is None and kind in ("token", ""):
                return before(x, pool_type)
            return _pool(model, before, x, kind, installed.map_of(x))

        return forward

    with ExitStack() as stack:
        stack.enter_context(override(model, "pool", pool))
        stack.enter_context(override(model, "forward_features", installed.entered))
        stack.enter_context(
            override(
                model,
                "forward_intermediates",
                lambda before: installed.entered(_by_patch(model, before, installed)),
            )
        )
        yield


def _pool(model: Any, before: Function, x: Tensor, kind: str, tokens: TokenMap | None) -> Tensor:
    """Pooling over the tokens that are left; ``before`` is the model's own."""
    if tokens is None:
        raise AsapEvalError(
            f"Pooling '{kind}' has to know what each token holds: give forward_head the very "
            "tensor that forward_features returned inside the same `with`."
        )
    if not tokens.changed:
        return before(x, kind)
    skip = 0 if model.pool_include_prefix else model.num_prefix_tokens
    if model.attn_pool is not None:
        return _attention_pool(model.attn_pool, x[:, skip:], tokens.mask[:, skip:])
    if kind == "avg":
        # A pooled token stands for all its patches, so the mean is over patches, not slots.
        share = tokens.size[:, skip:, None]
        return ((x[:, skip:] * share).sum(1) / share.sum(1)).to(x.dtype)
    raise UnsupportedModelError(f"Pooling '{kind}' over reduced tokens is not supported.")


def _by_patch(model: Any, before: Function, installed: Installed) -> Function:
    """timm's `forward_intermediates`: in NCHW every patch has its place in the image again."""
    signature = inspect.signature(before)

    def forward(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        by_patch = Format(given["output_fmt"]) == Format.NCHW
        given["output_fmt"] = "NLC"
        out = before(*call.args, **call.kwargs)
        seen, blocks = installed.trace.maps, len(model.blocks)
        if given["stop_early"]:
            installed.trace.stop()
        taken, _ = feature_take_indices(blocks, given["indices"])
        maps = [seen[index] for index in sorted(set(taken))]

        def shaped(features: Any, tokens: TokenMap) -> Any:
            if isinstance(features, tuple):  # with prefix tokens beside
                return shaped(features[0], tokens), features[1]
            if by_patch:
                return tokens.unmerge(features).permute(0, 3, 1, 2).contiguous()
            installed.trace.know(features, tokens)
            return features

        if given["output_dict"]:
            listed = out["image_intermediates"]
        else:
            listed = out if given["intermediates_only"] else out[1]
        listed[:] = [shaped(each, tokens) for each, tokens in zip(listed, maps, strict=True)]
        return out

    return forward


def _resizable(model: Any) -> AbstractContextManager[None]:
    """timm's own path for images of any size, in a model that was built for one."""
    embed = model.patch_embed
    flags = (
        (model, "dynamic_img_size", True),
        (embed, "strict_img_size", False),
        (embed, "flatten", False),
        (embed, "output_fmt", Format.NHWC),
    )
    return attributes(flags)


def _attention_pool(pool: Any, x: Tensor, valid: Tensor) -> Tensor:
    """The model's attention pooling over the valid tokens alone. ``x`` is ``[B, N, D]``."""
    bias = torch.where(valid, 0.0, -torch.inf).flatten()
    layout = Layout((x.shape[1],) * len(x))
    with Probe(lambda q, k, v: attend(q, k, v, layout, bias)) as probe:
        pooled: Tensor = pool(x)
    if probe.seen != 1:
        raise UnsupportedModelError(
            f"{type(pool).__name__} called fused attention {probe.seen} times instead of once; "
            "it cannot pool fewer tokens."
        )
    return pooled
