"""Reading attention: one probe for every model that calls fused attention.

`Probe` intercepts ``F.scaled_dot_product_attention`` while one block's attention runs, on this
thread only and without touching the model, so that timm and Hugging Face modules need no copied
forward: their own projections, norms and gates run as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from asap_eval.errors import UnsupportedModelError

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Probe(TorchFunctionMode):
    """Calls ``attend(q, k, v)`` in place of fused attention inside the ``with``.

    Args:
        masked: whether the call may be masked or causal: ``attend`` knows by itself who sees whom.

    ``seen`` counts the interceptions, so that a model whose attention bypasses the fused call is
    found out instead of running unreduced.
    """

    def __init__(self, attend: Attend, masked: bool = False) -> None:
        super().__init__()
        self.attend, self.masked = attend, masked
        self.seen = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.seen += 1
        if self.masked:
            kwargs = {**kwargs, "attn_mask": None, "is_causal": False}
        q, k, v, scale = _arguments(*args, **kwargs)
        if scale is not None and scale != q.shape[-1] ** -0.5:
            q = q * (scale * q.shape[-1] ** 0.5)
        return self.attend(q, k, v)


class Reader(TorchFunctionMode):
    """Keeps queries, keys and values of fused attention inside the ``with``; changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls.append((args[0], args[1], args[2]))
        return func(*args, **(kwargs or {}))

    def tensors(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """``[B, H, N, d]`` each, of the one call there was."""
        if len(self.calls) != 1:
            raise UnsupportedModelError(
                f"Layer {block} called fused attention {len(self.calls)} times instead of once; "
                "its attention cannot be read."
            )
        return self.calls[0]


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
