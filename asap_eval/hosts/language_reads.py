"""What a method reads of a layer of the language model: before the layer runs, or while it does."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor

from asap_eval.hosts.geometry import linear_macs
from asap_eval.hosts.overriding import Function, override
from asap_eval.hosts.probe import Reader
from asap_eval.hosts.reading import Reading
from asap_eval.method import Need, Reducer

BEFORE = frozenset({Need.FEATURES, Need.NORMED, Need.KEYS, Need.ROWS, Need.LOGITS})
"""What can be read before a layer: keys and rows are those that the layer would make of the tokens
that are about to enter it, which costs its projections of them."""

READABLE = BEFORE | {Need.VALUES, Need.INPUT, Need.MLP_INPUT, Need.OUT_PROJECTION}
"""What can be read after a layer."""

_ROWS = {Need.ROWS, Need.LOGITS}
_ATTENTION = {*_ROWS, Need.KEYS, Need.VALUES}


class FromLayer(AbstractContextManager["FromLayer"]):
    """Takes, while one layer runs inside the ``with``, what the method reads of it.

    Args:
        layer: of the language model. block: its number from 1. x: ``[S, N, D]`` what enters it,
            padding at the front. watched: samples that the method looks at.
    """

    def __init__(
        self,
        layer: Any,
        block: int,
        x: Tensor,
        watched: list[int],
        reading: Reading,
        reducer: Reducer,
    ) -> None:
        self.layer, self.block, self.x, self.watched = layer, block, x, watched
        self.reading, self.reducer = reading, reducer
        self._attention = Reader() if reducer.needs & _ATTENTION else None
        self._mlp: Tensor | None = None
        self._stack = ExitStack()

    def __enter__(self) -> FromLayer:
        with ExitStack() as stack:
            if Need.MLP_INPUT in self.reducer.needs:
                stack.enter_context(override(self.layer.mlp, "forward", self._heard))
            if self._attention is not None:
                stack.enter_context(self._attention)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _heard(self, forward: Function) -> Function:
        def run(x: Tensor) -> Tensor:
            self._mlp = x
            out: Tensor = forward(x)
            return out

        return run

    def _of(self, values: Tensor) -> Tensor:
        """``[b, N', ...]`` of the watched samples, padding at the end, from ``[S, N, ...]``."""
        longest = int(self.reading.lengths[self.watched].max())
        return self.reading.right(values)[self.watched, :longest]

    def reads(self) -> dict[Need, Tensor]:
        """What the method declared, after the layer has run."""
        needs, found = self.reducer.needs, {}
        if Need.INPUT in needs:
            found[Need.INPUT] = self._of(self.x)
        if self._mlp is not None:
            found[Need.MLP_INPUT] = self._of(self._mlp)
        if Need.OUT_PROJECTION in needs:
            found[Need.OUT_PROJECTION] = self.layer.self_attn.o_proj.weight
        if self._attention is None:
            return found
        q, k, v = self._attention.tensors(self.block)
        if Need.VALUES in needs:
            found[Need.VALUES] = self._unshared(v).transpose(1, 2)
        if not needs & (_ROWS | {Need.KEYS}):
            return found
        keys = self._unshared(k)
        if Need.KEYS in needs:
            found[Need.KEYS] = keys.transpose(1, 2)
        if needs & _ROWS:
            lengths = self.reading.lengths[self.watched]
            queries = self.reducer.rows(self.block, lengths, self.reading.state)
            rows = chosen(self._of(q.transpose(1, 2)), queries)
            found |= rows_of(rows, keys, queries, lengths, needs)
        return found

    def _unshared(self, values: Tensor) -> Tensor:
        """``[b, N', H', d]`` of keys or values ``[S, H, N, d]``: attention may have been given a
        copy of the shared ones for every head."""
        own = self.layer.self_attn.k_proj.out_features // values.shape[3]
        return self._of(values[:, :: values.shape[1] // own].transpose(1, 2))


def ahead(
    layer: Any,
    block: int,
    x: Tensor,
    rotary: tuple[Tensor, Tensor],
    watched: list[int],
    reading: Reading,
    reducer: Reducer,
) -> tuple[dict[Need, Tensor], Tensor]:
    """Keys and rows of a layer that has not run, of the tokens about to enter it.

    Only the queries that the method names are projected.

    Args:
        x: ``[S, N, D]``, padding at the front. rotary: cosines and sines of its tokens.

    Returns:
        What the method declared, and ``[b]`` MACs of making it: no part of the layer's own work.
    """
    lengths = reading.lengths[watched]
    if not reducer.needs & (_ROWS | {Need.KEYS}):
        return {}, torch.zeros_like(lengths)
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    attention, longest = layer.self_attn, int(lengths.max())
    normed, cos, sin = (
        reading.right(t.expand(len(x), -1, -1))[watched, :longest]
        for t in (layer.input_layernorm(x), *rotary)
    )
    heads = (len(normed), longest, -1, attention.head_dim)
    k = attention.k_proj(normed).view(heads)
    k, _ = apply_rotary_pos_emb(k, k, cos, sin, unsqueeze_dim=2)
    macs = lengths * linear_macs(attention.k_proj)
    found = {Need.KEYS: k.transpose(1, 2)} if Need.KEYS in reducer.needs else {}
    if reducer.needs & _ROWS:
        queries = reducer.rows(block, lengths, reading.state)
        q = attention.q_proj(chosen(normed, queries)).view(*queries.shape, -1, attention.head_dim)
        q, _ = apply_rotary_pos_emb(q, q, chosen(cos, queries), chosen(sin, queries), 2)
        found |= rows_of(q, k, queries, lengths, reducer.needs)
        row = linear_macs(attention.q_proj) + lengths * q.shape[2] * attention.head_dim
        macs = macs + (queries >= 0).sum(1) * row
    return found, macs


def chosen(values: Tensor, queries: Tensor) -> Tensor:
    """``[b, R, ...]`` of some positions ``[b, R]`` (-1 = any) from ``[b, N, ...]``."""
    return values[torch.arange(len(values), device=values.device)[:, None], queries.clamp(min=0)]


def rows_of(
    q: Tensor, k: Tensor, queries: Tensor, lengths: Tensor, needs: frozenset[Need]
) -> dict[Need, Tensor]:
    """``[b, H, R, N]`` attention or scores, as needed, of a few queries; padding at the end.

    Args:
        q: ``[b, R, H, d]``. k: ``[b, N, H', d]``, for each few heads. queries: ``[b, R]`` their
            positions, -1 = none. lengths: ``[b]``.
    """
    q, k = q.float(), k.float()
    k = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
    logits = torch.einsum("brhd,bnhd->bhrn", q, k) * q.shape[-1] ** -0.5
    place = torch.arange(k.shape[1], device=q.device)
    later = place > queries[..., None]  # also padding: it stands behind every token
    none = (queries < 0)[:, None, :, None]
    found = {}
    if Need.LOGITS in needs:
        padding = (place >= lengths[:, None])[:, None, None]
        found[Need.LOGITS] = logits.masked_fill(none | padding, 0)
    if Need.ROWS in needs:
        rows = logits.masked_fill(later[:, None] & ~none, -torch.inf).softmax(-1)
        found[Need.ROWS] = rows.masked_fill(none, 0)
    return found
