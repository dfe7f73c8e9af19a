"""What a host says of its model: how blocks run, where images come in, what decides the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from asap_eval.hosts.geometry import Geometry
from asap_eval.hosts.overriding import Function
from asap_eval.token_map import TokenMap
from asap_eval.trace import Trace

Half = Callable[[Tensor], Tensor]


class Installed(Protocol):
    """What a host may ask while a method is installed."""

    trace: Trace

    def entered(self, before: Function) -> Function:
        """For `override`: marks a function of the model in which one whole pass runs."""

    def map_of(self, x: Tensor) -> TokenMap | None:
        """What tokens ``[B, N, D]`` hold, as the pass knows that made them or that is running;
        ``None`` = not known."""

    def latest(self) -> TokenMap | None:
        """The tokens of this thread's pass, after the latest block."""


@dataclass(frozen=True)
class Behind:
    """What a vision-language model has behind the blocks of its tower that are used.

    Attributes:
        projector: ``[..., D] -> [..., D']``, token by token.
        next_token: MACs per token of ``queries_and_keys``.
        queries_and_keys: what the next block would make of ``[B, N, D]``, two ``[B, H, N, d]``;
            ``None`` = the last block is used.
    """

    projector: Callable[[Tensor], Tensor]
    next_token: int = 0
    queries_and_keys: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Backbone:
    """A supported model, as the seam needs it.

    Attributes:
        model: the whole model. embed: the module whose input is the images ``[B, 3, H, W]``.
        blocks: the transformer blocks, in order.
        halves: ``halves(block) -> (attention half, MLP half)``, each ``[B, N, D] -> [B, N, D]``
            with its residual, exactly as the model's own forward computes it.
        attention: ``attention(block)``, the module that projects to queries, keys and values.
        geometry: what decides the model's work.
        chain: the module whose forward runs the blocks, each on what the one before hands on, and
            looks at nothing between them; ``None`` = there is none.
        norm: what follows the blocks token by token; what it makes of padding is set to zero.
        fused: context in which attention is one fused call, which can be read and replaced.
        patched: context in which the model may run with fewer tokens (a head that averages them,
            features that are read by patch).
        image_size: height and width in pixels that the model was built for.
        resizable: context in which it takes images of other sizes: the position embedding is
            resampled as its own library does.
        behind: what stands behind it in a vision-language model.
    """

    model: nn.Module
    embed: nn.Module
    blocks: Sequence[nn.Module]
    chain: nn.Module | None
    norm: nn.Module | None
    halves: Callable[[nn.Module], tuple[Half, Half]]
    attention: Callable[[Any], nn.Module]
    geometry: Geometry
    fused: Callable[[], AbstractContextManager[None]]
    patched: Callable[[Installed], AbstractContextManager[None]]
    image_size: tuple[int, int]
    resizable: Callable[[], AbstractContextManager[None]]
    behind: Behind | None = None
