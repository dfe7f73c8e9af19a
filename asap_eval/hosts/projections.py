"""Queries and keys of a block's attention without its values, or values alone.

`Only` intercepts the projections while one block's attention runs, on this thread only and without
touching the model: rows of their weights that nobody reads are not computed and read 0.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from asap_eval.errors import UnsupportedModelError

Part = Literal["qk", "v"]


class Only(TorchFunctionMode):
    """Computes one part of an attention's projections inside the ``with``.

    Args:
        attention: with one layer ``qkv``, or with ``q_proj``, ``k_proj`` and ``v_proj``.

    Raises:
        UnsupportedModelError: other projections.
    """

    def __init__(self, attention: Any, part: Part) -> None:
        super().__init__()
        if isinstance(getattr(attention, "qkv", None), nn.Linear):
            weight = attention.qkv.weight
            third = len(weight) // 3
            rows = slice(0, 2 * third) if part == "qk" else slice(2 * third, 3 * third)
            self._wanted = {id(weight): rows}
        elif all(hasattr(attention, f"{name}_proj") for name in "qkv"):
            self._wanted = {
                id(getattr(attention, f"{name}_proj").weight): slice(None if name in part else 0)
                for name in "qkv"
            }
        else:
            raise UnsupportedModelError(
                f"{type(attention).__name__} has neither qkv nor q_proj, k_proj and v_proj: a "
                "method that acts between softmax and V cannot part its projections."
            )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.linear and id(args[1]) in self._wanted:
            return _linear(self._wanted[id(args[1])], *args)
        return func(*args, **(kwargs or {}))


def _linear(rows: slice, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` whose other rows are 0."""
    out = x.new_zeros(*x.shape[:-1], len(weight))
    if len(weight[rows]):
        out[..., rows] = F.linear(x, weight[rows], None if bias is None else bias[rows])
    return out


def fuse_maps(maps: Tensor, group: Tensor, weight: Tensor, slots: int) -> Tensor:
    """Attention of fused tokens from that of their members: columns summed, rows averaged.

    Args:
        maps: ``[B, H, N, N]``, queries in rows. group: ``[B, N]`` slot of each token, -1 = dropped.
        weight: ``[B, N]`` factors of a slot's members.

    Returns:
        ``[B, H, S, S]``.
    """
    images, heads, count, _ = maps.shape
    into = torch.where(group >= 0, group, slots)[:, None, None]
    columns = maps.new_zeros(images, heads, count, slots + 1)
    columns.scatter_add_(3, into.expand_as(maps), maps)
    columns = columns[..., :slots] * weight[:, None, :, None].to(maps.dtype)
    fused = maps.new_zeros(images, heads, slots + 1, slots)
    fused.scatter_add_(2, into.mT.expand_as(columns), columns)
    return fused[:, :, :slots]
