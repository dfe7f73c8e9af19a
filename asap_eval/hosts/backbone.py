"""What a host says of its model: how blocks run, where images come in, what decides the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from asap_eval.hosts.geometry import Geometry

if TYPE_CHECKING:
    from asap_eval.hosts.forward import Pass

Half = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Backbone:
    """A supported model, as the seam needs it.

    Attributes:
        model: the whole model. embed: the module whose input is the images ``[B, 3, H, W]``.
        blocks: the transformer blocks, in order.
        halves: ``halves(block) -> (attention half, MLP half)``, each ``[B, N, D] -> [B, N, D]``
            with its residual, exactly as the model's own forward computes it.
        geometry: what decides the model's work.
        patched: context in which the model may run with fewer tokens (a head that averages them,
            attention that must take the fused path); it is given ``current``, which returns the
            running pass or ``None``.
        image_size: height and width in pixels that the model was built for.
        resizable: context in which it takes images of other sizes: the position embedding is
            resampled as its own library does.
    """

    model: nn.Module
    embed: nn.Module
    blocks: Sequence[nn.Module]
    halves: Callable[[nn.Module], tuple[Half, Half]]
    geometry: Geometry
    patched: Callable[[Callable[[], Pass | None]], AbstractContextManager[None]]
    image_size: tuple[int, int]
    resizable: Callable[[], AbstractContextManager[None]]
