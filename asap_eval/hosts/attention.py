"""Running attention: fused, packed or with its maps, by whichever kernel fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.hosts import gpu_attention
from asap_eval.hosts.layout import Layout, by_token
from asap_eval.kernels import attention_kernel, packed_attention, takes

MAP_BYTES = {"cpu": 5 << 20, "cuda": 256 << 20}
"""Memory for one head's maps of the images in flight: on a CPU what its cache holds between two
products; on a GPU enough images to keep it busy."""


def kernel_of(like: Tensor) -> str:
    """What computes attention for tensors like this one, and its maps, as a record names it."""
    if like.device.type == "cuda":
        return f"torch; head-mean maps: {gpu_attention.map_kernel(like.device)}"
    return attention_kernel(like.device, like.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None) -> Tensor:
    """Fused attention of every image over its own tokens.

    On a CPU the compiled kernel runs wherever it can, dense or packed, so that all of a method's
    blocks, and the unpruned model it is timed beside, have the same attention.

    Args:
        q, k, v: ``[B, H, N, d]`` (dense) or ``[1, H, T, d]`` (packed). Where a few learned queries
            pool the tokens, ``q`` is shorter and dense.
        layout: lengths of the images.
        bias: ``[T]`` added to the logits of each key, or ``None``.

    Returns:
        The shape of ``q``.
    """
    if q.shape == k.shape and takes(q, k, v):
        return _attend_natively(q, k, v, layout, bias, [], False)[0]
    if layout.dense:
        mask = None
        if bias is not None:
            mask = bias.view(len(layout.lengths), 1, 1, -1).to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    kernel = gpu_attention.fused(q, k, v, layout, bias) if q.device.type == "cuda" else None
    if kernel is not None:
        queries, keys, values = map(by_token, (q, k, v))
        out, _, _ = gpu_attention.attend_packed(queries, keys, values, layout, bias, kernel)
        return _by_head(out, layout)
    pieces = _pieces(q, k, v, layout, bias, layout.runs())
    return _by_head(torch.cat([_fused(*piece) for piece in pieces]), layout)


def _attend_natively(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    bias: Tensor | None,
    watched: list[int],
    heads: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `attend_with_maps`; no maps where no image is watched."""
    place = [-1] * len(layout.lengths)
    for at, image in enumerate(watched):
        place[image] = at
    out, maps = packed_attention(
        by_token(q),
        by_token(k),
        by_token(v),
        layout.starts,
        layout.lengths,
        None if bias is None else bias.float(),
        place,
        heads=heads,
    )
    return _by_head(out, layout), maps


def _pieces(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    bias: Tensor | None,
    runs: Sequence[Sequence[int]],
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """Each run's q, k, v ``[g, H, n, d]`` and bias ``[g, 1, 1, n]``, as views.

    Split in one call each: ragged batches have about as many runs as images.
    """
    sizes = [len(images) * layout.lengths[images[0]] for images in runs]
    split = [by_token(t).transpose(0, 1)[None].split(sizes, 2) for t in (q, k, v)]
    biases = [None] * len(runs) if bias is None else bias.split(sizes)
    for images, rows, *parts in zip(runs, biases, *split, strict=True):
        mask = None if rows is None else rows.view(len(images), 1, 1, -1)
        if len(images) > 1:
            parts = [part[0].unflatten(1, (len(images), -1)).transpose(0, 1) for part in parts]
        yield parts[0], parts[1], parts[2], mask


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """``[g n, H, d]`` of images of one length; see `_pieces`."""
    mask = None if bias is None else bias.to(q.dtype)
    return by_token(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


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
        watched: positions of the images whose maps are wanted, in the order of the maps.
        heads: maps of every head rather than their mean.

    Returns:
        The output, shaped as ``q``, and the maps, fp32: ``[b, N, N]``, or ``[b, H, N, N]`` with
        ``heads``; N is the longest watched image, rows and columns beyond an image's own are 0.
        The maps are the caller's: nothing else reads them. Gradients flow through both.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        return _attend_with_gradients(q, k, v, layout, bias, watched, heads)
    if q.device.type == "cuda" and not heads:
        kernel = gpu_attention.mapped_by(q, k, v, layout, bias)
        if kernel is not None:
            return gpu_attention.attend_with_mean_maps(q, k, v, layout, bias, watched, kernel)
    if takes(q, k, v):
        out, found = _attend_natively(q, k, v, layout, bias, watched, heads)
        assert found is not None
        return out, found
    heads_kept = q.shape[1] if heads else 1
    longest = max(layout.lengths[i] for i in watched)
    shape = (len(watched), heads_kept, longest, longest)
    # Written whole below where all watched images have one length, as they do until one fires.
    even = all(layout.lengths[i] == longest for i in watched)
    maps = (q.new_empty if even else q.new_zeros)(shape, dtype=map_dtype(q))
    memory = MAP_BYTES.get(q.device.type, MAP_BYTES["cuda"])
    limit = max(1, memory // (maps.element_size() * longest * longest))
    chosen = set(watched)
    runs = layout.runs(apart=chosen)
    outs: list[Tensor] = []
    done: list[int] = []
    for images, piece in zip(runs, _pieces(q, k, v, layout, bias, runs), strict=True):
        if images[0] not in chosen:
            outs.append(_fused(*piece))
            continue
        queries, keys, values, mask = piece
        length = layout.lengths[images[0]]
        target = maps[len(done) : len(done) + len(images), :, :length, :length]
        # Head after head, so that products write their results where they belong.
        out = q.new_empty(q.shape[1], len(images), length, q.shape[3])
        for at in range(0, len(images), limit):
            few = slice(at, at + limit)
            key_bias = None if mask is None else mask[few]
            _maps_of(queries[few], keys[few], values[few], key_bias, target[few], out[:, few])
        outs.append(out.flatten(1, 2).transpose(0, 1))
        done += images
    if done != watched:
        maps = maps[[done.index(image) for image in watched]]
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    return _by_head(out, layout), maps if heads else maps[:, 0]


def _attend_with_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    bias: Tensor | None,
    watched: list[int],
    heads: bool,
) -> tuple[Tensor, Tensor]:
    """See `attend_with_maps`. Autograd keeps every head's map of the batch, so nothing is saved by
    fewer images at a time, and follows no result that is written in place."""
    everyone = list(range(len(layout.lengths)))
    queries, keys, values = (
        layout.images(by_token(t), everyone).transpose(1, 2) for t in (q, k, v)
    )
    valid = layout.rows(q.device) < layout.total
    mask = torch.where(valid, 0.0, -torch.inf)
    if bias is not None:
        mask = mask + layout.images(bias, everyone)
    dtype = map_dtype(q)
    logits = queries.to(dtype) @ keys.to(dtype).mT * q.shape[-1] ** -0.5
    maps = (logits + mask[:, None, None].to(dtype)).softmax(-1)
    out = layout.packed((maps.to(v.dtype) @ values).transpose(1, 2)).transpose(1, 2)
    longest = max(layout.lengths[i] for i in watched)
    maps = maps[watched, :, :longest, :longest] * valid[watched, None, :longest, None]
    return out, maps if heads else maps.mean(1)


def _maps_of(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, maps: Tensor, out: Tensor
) -> None:
    """Attention of a few images of one length, head after head, so that the maps of one head stay
    in the cache from the first product to the second.

    Args:
        q, k, v: ``[g, H, n, d]``. bias: ``[g, 1, 1, n]`` or ``None``.
        maps: ``[g, 1, n, n]`` (mean over heads) or ``[g, H, n, n]``, written here.
        out: ``[H, g, n, d]``, written here.
    """
    images, _, count, width = q.shape
    mean = maps.shape[1] == 1
    spare = maps.new_empty(images, count, count)
    by_head = zip(q.unbind(1), k.unbind(1), v.unbind(1), out.unbind(0), strict=True)
    for head, (queries, keys, values, result) in enumerate(by_head):
        slot = maps[:, 0 if mean else head]
        own = head == 0 or not mean
        # A slice of padded maps is not one block of memory and cannot be written by a product.
        scores = slot if own and slot.is_contiguous() else spare
        # With beta=0 what was there before is not read.
        base, keep = (scores, 0) if bias is None else (bias[:, 0].to(maps.dtype), 1)
        torch.baddbmm(
            base,
            queries.to(maps.dtype),
            keys.to(maps.dtype).mT,
            beta=keep,
            alpha=width**-0.5,
            out=scores,
        )
        torch.softmax(scores, -1, out=scores)
        torch.bmm(scores.to(v.dtype), values, out=result)
        if not own:
            slot.lerp_(scores, 1 / (head + 1))  # the mean of the heads so far
        elif scores is not slot:
            slot.copy_(scores)
