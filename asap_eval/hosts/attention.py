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

MAP_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Memory for all heads' maps of the images in flight: on a CPU what its cache holds, so that the
maps of a batch never reach main memory; on a GPU enough images to keep it busy."""

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
    if q.device.type == "cpu":
        return _attend_in_turn(q, k, v, layout, bias)
    return _attend_padded(q, k, v, layout, bias)


def _empty_output(q: Tensor) -> Tensor:
    """Uninitialised ``[B, H, N, d]`` laid out as ``[B, N, H, d]``, as fused attention returns it:
    the model's transpose and reshape that follow are then free."""
    batch, heads, count, width = q.shape
    return q.new_empty(batch, count, heads, width).transpose(1, 2)


def _attend_in_turn(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None
) -> Tensor:
    """Image by image: on a CPU no work at all is spent on padding."""
    out = _empty_output(q)
    for image in range(len(layout.lengths)):
        _attend_one(q, k, v, layout, bias, image, out)
    return out


def _attend_one(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    bias: Tensor | None,
    image: int,
    out: Tensor,
) -> None:
    """Fused attention of one image of a packed batch, written into ``out``."""
    start, length = layout.starts[image], layout.lengths[image]
    at = slice(start, start + length)
    mask = None if bias is None else bias[at].to(q.dtype).expand(1, 1, length, length)
    out[:, :, at] = F.scaled_dot_product_attention(
        q[:, :, at], k[:, :, at], v[:, :, at], attn_mask=mask
    )


def _attend_padded(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None
) -> Tensor:
    """One call over padded images: on a GPU launches cost more than the padding of attention."""
    rows = layout.rows(q.device)
    valid = rows < layout.total
    rows = rows.clamp(max=layout.total - 1)
    mask = torch.where(valid, 0.0, -torch.inf)
    if bias is not None:
        mask = mask + bias[rows]
    padded = [t[0][:, rows].transpose(0, 1) for t in (q, k, v)]
    out = F.scaled_dot_product_attention(*padded, attn_mask=mask[:, None, None].to(q.dtype))
    packed = _empty_output(q)
    packed[0] = out.transpose(0, 1)[:, valid]
    return packed


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
    longest = max((layout.lengths[i] for i in watched), default=0)
    shape = (count, longest, longest) if heads else (longest, longest)
    # Written whole below where all watched images have one length, as they do until one fires.
    even = all(layout.lengths[i] == longest for i in watched)
    maps = (q.new_empty if even else q.new_zeros)(len(watched), *shape, dtype=map_dtype(q))
    out = _empty_output(q)

    picked = set(watched)
    others = [i for i in range(len(layout.lengths)) if i not in picked]
    if others and layout.dense:
        mask = None if bias is None else bias.view(len(layout.lengths), 1, 1, -1).to(q.dtype)[others]
        out[others] = F.scaled_dot_product_attention(
            q[others], k[others], v[others], attn_mask=mask
        )
    for image in others if not layout.dense else ():
        _attend_one(q, k, v, layout, bias, image, out)

    work = None
    for first, group in _groups(watched, layout, count, q.device.type):
        length = layout.lengths[group[0]]
        target = maps[first : first + len(group), ..., :length, :length]
        taken = [_take(t, layout, group) for t in (q, k, v)]
        if work is None or work.shape[1] != length or len(work) < len(group) * count:
            work = target.new_empty(len(group) * count, length, length)
        key_bias = None if bias is None else _take_bias(bias, layout, group)
        result = _maps_of(*taken, key_bias, target, work[: len(group) * count])
        if layout.dense:
            out[group[0] : group[-1] + 1] = result
        else:
            for image, rows in zip(group, result, strict=True):
                start = layout.starts[image]
                out[0, :, start : start + length] = rows
    return out, maps


def _groups(
    watched: list[int], layout: Layout, heads: int, device: str
) -> list[tuple[int, list[int]]]:
    """Watched images in groups of one length whose maps fit in the fast memory together.

    Each group comes with the place of its first image in ``watched``. In a dense batch the images
    of a group are neighbours, so that they can be sliced rather than gathered.
    """
    groups: list[tuple[int, list[int]]] = []
    for place, image in enumerate(watched):
        length = layout.lengths[image]
        limit = max(1, MAP_BYTES.get(device, MAP_BYTES["cuda"]) // (4 * heads * length * length))
        if groups:
            group = groups[-1][1]
            fits = len(group) < limit and layout.lengths[group[-1]] == length
            if fits and (not layout.dense or group[-1] + 1 == image):
                group.append(image)
                continue
        groups.append((place, [image]))
    return groups


def _take(t: Tensor, layout: Layout, group: list[int]) -> Tensor:
    """``[g, H, n, d]`` of a group of images of one length."""
    if layout.dense:
        return t[group[0] : group[-1] + 1]
    length = layout.lengths[group[0]]
    return torch.stack([t[0, :, s : s + length] for s in (layout.starts[i] for i in group)])


def _take_bias(bias: Tensor, layout: Layout, group: list[int]) -> Tensor:
    """``[g, n]`` key bias of a group of images of one length."""
    length = layout.lengths[group[0]]
    return torch.stack([bias[s : s + length] for s in (layout.starts[i] for i in group)])


def _maps_of(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, target: Tensor, scores: Tensor
) -> Tensor:
    """Attention of a few images; writes their fp32 maps into ``target``.

    Args:
        q, k, v: ``[g, H, n, d]``. bias: ``[g, n]`` or ``None``.
        target: ``[g, n, n]`` (mean over heads) or ``[g, H, n, n]``.
        scores: ``[g * H, n, n]`` scratch memory in the maps' dtype.

    Returns:
        ``[g, H, n, d]`` in the dtype of ``v``.
    """
    images, heads, count, width = q.shape
    queries, keys = (t.to(scores.dtype).reshape(-1, count, width) for t in (q, k))
    scale = width**-0.5
    if bias is None:
        torch.baddbmm(scores, queries, keys.mT, beta=0, alpha=scale, out=scores)
    else:
        key_bias = bias.repeat_interleave(heads, 0)[:, None].to(scores.dtype)
        torch.baddbmm(key_bias, queries, keys.mT, alpha=scale, out=scores)
    torch.softmax(scores, -1, out=scores)
    by_head = scores.view(images, heads, count, count)
    if target.dim() == 4:
        target.copy_(by_head)
    else:
        # Head after head: a reduction over a middle dimension takes more than twice as long.
        torch.mul(by_head[:, 0], 1 / heads, out=target)
        for head in range(1, heads):
            target.add_(by_head[:, head], alpha=1 / heads)
    result = torch.bmm(scores.to(v.dtype), v.reshape(-1, count, width))
    return result.view(images, heads, count, width)
