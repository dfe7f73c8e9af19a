"""Reading and running attention: one probe for every model that calls fused attention.

`Probe` intercepts ``F.scaled_dot_product_attention`` while one block's attention runs, on this
thread only and without touching the model, so that timm and Hugging Face modules need no copied
forward: their own projections, norms and gates run as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from asap_eval.hosts.layout import Layout

MAP_BYTES = {"cpu": 5 << 19, "cuda": 256 << 20}
"""Memory for one head's maps of the images in flight: on a CPU what its cache holds between two
products; on a GPU enough images to keep it busy."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Probe(TorchFunctionMode):
    """Calls ``attend(q, k, v)`` in place of fused attention inside the ``with``.

    ``seen`` counts the interceptions, so that a model whose attention bypasses the fused call is
    found out instead of running unreduced.
    """

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend
        self.seen = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.seen += 1
        q, k, v, scale = _arguments(*args, **kwargs)
        if scale is not None and scale != q.shape[-1] ** -0.5:
            q = q * (scale * q.shape[-1] ** 0.5)
        return self.attend(q, k, v)


def _arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor, Tensor, float | None]:
    """The call's tensors; what a vision tower never passes is refused, not ignored."""
    if attn_mask is not None or is_causal or enable_gqa:
        raise NotImplementedError("Masked, causal or grouped attention in a vision tower.")
    if dropout_p:
        raise NotImplementedError("Attention dropout: call model.eval() before reducing tokens.")
    return query, key, value, scale


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None) -> Tensor:
    """Fused attention of every image over its own tokens.

    Args:
        q, k, v: ``[B, H, N, d]`` (dense) or ``[1, H, T, d]`` (packed).
        layout: lengths of the images.
        bias: ``[T]`` added to the logits of each key, or ``None``.

    Returns:
        The shape of ``q``.
    """
    if layout.dense:
        mask = None
        if bias is not None:
            mask = bias.view(len(layout.lengths), 1, 1, -1).to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if q.device.type != "cpu":
        return _attend_padded(q, k, v, layout, bias)
    out = torch.empty_like(by_token(q))
    _attend_runs(q, k, v, layout, bias, list(layout.order), out)
    return _by_head(out, layout)


def _attend_runs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    bias: Tensor | None,
    picked: list[int],
    out: Tensor,
) -> None:
    """Fused attention of some images, those of one length together, written to ``out [T, H, d]``.

    On a CPU no work at all is spent on padding this way.
    """
    flat = [by_token(t) for t in (q, k, v)]
    for row, images in layout.runs(picked):
        length = layout.lengths[images[0]]
        rows = slice(row, row + len(images) * length)
        queries, keys, values = (t[rows].unflatten(0, (-1, length)).transpose(1, 2) for t in flat)
        mask = None
        if bias is not None:
            mask = bias[rows].view(-1, 1, 1, length).to(q.dtype)
        result = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        out[rows] = result.transpose(1, 2).flatten(0, 1)


def _attend_padded(q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None) -> Tensor:
    """One call over padded images: on a GPU launches cost more than the padding of attention."""
    rows = layout.rows(q.device)
    valid = rows < layout.total
    rows = rows.clamp(max=layout.total - 1)
    mask = torch.where(valid, 0.0, -torch.inf)
    if bias is not None:
        mask = mask + bias[rows]
    queries, keys, values = (by_token(t)[rows].transpose(1, 2) for t in (q, k, v))
    result = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask[:, None, None].to(q.dtype)
    )
    out = torch.empty_like(by_token(q))
    out[rows[valid]] = result.transpose(1, 2)[valid]
    return _by_head(out, layout)


def by_token(t: Tensor) -> Tensor:
    """``[T, H, d]`` from ``[B, H, N, d]`` or ``[1, H, T, d]``; a view of a model's fused qkv."""
    return t.transpose(1, 2).flatten(0, 1)


def _by_head(t: Tensor, layout: Layout) -> Tensor:
    """``[B, H, N, d]`` or ``[1, H, T, d]`` from ``[T, H, d]``. As after fused attention, the
    model's own transpose and reshape that follow are then free."""
    return layout.shaped(t).transpose(1, 2)


def map_dtype(q: Tensor) -> torch.dtype:
    """Maps are fp32 whatever the model runs in (fp64 for an fp64 model)."""
    return torch.promote_types(q.dtype, torch.float32)


def attend_with_maps(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    bias: Tensor | None,
    watched: list[int],
    heads: bool,
) -> tuple[Tensor, Tensor]:
    """Attention whose maps a method reads; unwatched images run fused.

    The map that a method reads is the one that made the output: it is computed once. A few images
    are in flight at a time, so all heads' maps of a batch never exist together (unless ``heads``
    asks for them).

    Args:
        q, k, v, layout, bias: as in `attend`.
        watched: positions of the images whose maps are wanted, ascending.
        heads: maps of every head rather than their mean.

    Returns:
        The output, shaped as ``q``, and the maps, fp32: ``[b, N, N]``, or ``[b, H, N, N]`` with
        ``heads``; N is the longest watched image, rows and columns beyond an image's own are 0.
    """
    count = q.shape[1]
    longest = max(layout.lengths[i] for i in watched)
    shape = (len(watched), count if heads else 1, longest, longest)
    # Written whole below where all watched images have one length, as they do until one fires.
    even = all(layout.lengths[i] == longest for i in watched)
    maps = (q.new_empty if even else q.new_zeros)(shape, dtype=map_dtype(q))
    out = torch.empty_like(by_token(q))

    chosen = set(watched)
    others = [i for i in range(len(layout.lengths)) if i not in chosen]
    if others:
        _attend_runs(q, k, v, layout, bias, others, out)

    flat = [by_token(t) for t in (q, k, v)]
    memory = MAP_BYTES.get(q.device.type, MAP_BYTES["cuda"])
    limit = max(1, memory // (maps.element_size() * longest * longest))
    done: list[int] = []
    for start, run in layout.runs(watched):
        length = layout.lengths[run[0]]
        for at in range(0, len(run), limit):
            images = run[at : at + limit]
            rows = slice(start + at * length, start + (at + len(images)) * length)
            queries, keys, values, result = (
                t[rows].unflatten(0, (-1, length)) for t in (*flat, out)
            )
            key_bias = None if bias is None else bias[rows].view(-1, 1, length)
            target = maps[len(done) : len(done) + len(images), :, :length, :length]
            _maps_of(queries, keys, values, key_bias, target, result)
            done += images
    if done != watched:
        maps = maps[[done.index(image) for image in watched]]
    return _by_head(out, layout), maps if heads else maps[:, 0]


def _maps_of(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, maps: Tensor, out: Tensor
) -> None:
    """Attention of a few images of one length, head after head, so that the maps of one head stay
    in the cache from the first product to the second.

    Args:
        q, k, v: ``[g, n, H, d]``. bias: ``[g, 1, n]`` or ``None``.
        maps: ``[g, 1, n, n]`` (mean over heads) or ``[g, H, n, n]``, written here.
        out: ``[g, n, H, d]``, written here.
    """
    images, count, heads, width = q.shape
    mean = maps.shape[1] == 1
    # Autograd cannot follow results written in place; then every product makes its own.
    in_place = not (torch.is_grad_enabled() and q.requires_grad)
    spare = maps.new_empty(images, count, count)
    for head in range(heads):
        slot = maps[:, 0 if mean else head]
        own = head == 0 or not mean
        # A slice of padded maps is not one block of memory and cannot be written by a product.
        scores = slot if own and in_place and slot.is_contiguous() else spare
        queries, keys = (t[:, :, head].to(maps.dtype) for t in (q, k))
        base, keep = (scores, 0) if bias is None else (bias.to(maps.dtype), 1)
        scores = torch.baddbmm(
            base, queries, keys.mT, beta=keep, alpha=width**-0.5, out=scores if in_place else None
        )
        scores = torch.softmax(scores, -1, out=scores if in_place else None)
        out[:, :, head] = torch.bmm(scores.to(v.dtype), v[:, :, head])
        if not own:
            slot.add_(scores)
        elif scores is not slot:
            slot.copy_(scores)
    if mean and heads > 1:
        maps.mul_(1 / heads)
