"""Attention and MLPs that a method replaces in a layer of the language model while it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.errors import UnsupportedModelError
from asap_eval.hosts.overriding import Function, override
from asap_eval.hosts.probe import Probe
from asap_eval.hosts.reading import Reading
from asap_eval.method import Reducer


@contextmanager
def replaced(
    index: int, attention: Any, cache: Any, reading: Reading, reducer: Reducer
) -> Iterator[None]:
    """Inside the ``with`` the attention product of layer ``index`` (from 0) is the method's; behind
    it the layer's cache holds what the method keeps of the prompt.

    Args:
        attention: the layer's attention module. cache: the model's, or ``None``.

    Raises:
        UnsupportedModelError: keys shared by several heads, attention that is not fused, or a cache
            that cannot be shortened.
    """
    if attention.num_key_value_groups > 1:
        raise UnsupportedModelError(
            f"Method '{reducer.name}' replaces attention, and {attention.num_key_value_groups} "
            "heads of this language model share their keys; only models with keys of their own for "
            "every head are supported."
        )

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q_, k_, v_ = (reading.right(t.transpose(1, 2)).transpose(1, 2) for t in (q, k, v))
        found = reducer.attend(q_, k_, v_, later_masked(q_), reading.state).transpose(1, 2)
        out = torch.zeros_like(q).transpose(1, 2)  # padding gets nothing; nobody reads it
        place = torch.arange(found.shape[1], device=q.device)
        out[reading.valid] = found[place < reading.lengths[:, None]]
        return out.transpose(1, 2)

    with Probe(attend, masked=True) as probe:
        yield
    if probe.seen != 1:
        raise UnsupportedModelError(
            f"Layer {index + 1} called fused attention {probe.seen} times instead of once; its "
            "attention cannot be replaced."
        )
    kept = reducer.cached(index + 1, reading.state)
    if cache is not None and kept is not None:
        reading.cached[index] = shorten(cache, index, *kept, reading)


@contextmanager
def fed(block: int, mlp: nn.Module, reading: Reading, reducer: Reducer) -> Iterator[None]:
    """Inside the ``with`` the MLP of a layer runs on text alone; image tokens get the method's."""

    def make(forward: Function) -> Function:
        def run(x: Tensor) -> Tensor:
            image = reading.image
            out = torch.empty_like(x)
            out[~image] = forward(x[~image])
            out[image] = reducer.feed(block, x[image], reading.state).to(x.dtype)
            return out

        return run

    with override(mlp, "forward", make):
        yield


def later_masked(q: Tensor) -> Tensor:
    """``[1, 1, N, N]`` 0, and -inf for later tokens: also padding, which stands at the end."""
    count = q.shape[2]
    ahead = torch.full((count, count), -torch.inf, dtype=q.dtype, device=q.device)
    return ahead.triu(1)[None, None]


def shorten(
    cache: Any, index: int, keys: Tensor, values: Tensor, counts: Tensor, reading: Reading
) -> Tensor:
    """Put these keys and values into a layer's cache, in place of the prompts' own.

    Args:
        keys, values: ``[S, H, M, d]`` with padding at the end. counts: ``[S]`` without padding.

    Returns:
        ``[S, M]`` bool, which tokens of the cache are valid.
    """
    layer = cache.layers[index]
    if index == 0 or type(layer).__name__ != "DynamicLayer":
        what = "the first layer's cache counts positions" if index == 0 else type(layer).__name__
        raise UnsupportedModelError(
            f"The cache of layer {index + 1} cannot be shortened ({what}): replace attention from "
            "the second layer on, and generate with a dynamic cache."
        )
    layer.keys, layer.values = (
        reading.left(t.transpose(1, 2), counts).transpose(1, 2) for t in (keys, values)
    )
    longest = keys.shape[2]
    return torch.arange(longest, device=counts.device) >= (longest - counts)[:, None]
