"""What trainings of predicted attention read: every block's queries, keys and maps, unchanged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asap_eval.hosts import install
from asap_eval.method import Batch, Reducer


class Seen(NamedTuple):
    """A block's queries and keys ``[B, H, N, d]``, unscaled, and its attention ``[B, H, N, N]``."""

    q: Tensor
    k: Tensor
    maps: Tensor


@dataclass
class Watcher(Reducer):
    """Runs attention as it is and keeps what every block saw, fp32."""

    name = "watcher"
    seen: list[Seen] = field(default_factory=list)

    def begin(self, batch: Batch) -> None:
        self.seen.clear()

    def watch(self, block: int, state: Any) -> bool:
        return False

    def attends(self, block: int, state: Any) -> bool:
        return True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, state: Any) -> Tensor:
        maps = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        self.seen.append(Seen(q.float(), k.float(), maps.float()))
        return maps @ v


@torch.no_grad()
def watched(model: nn.Module, pixels: Tensor) -> list[Seen]:
    """What each block of the unpruned model saw of images ``[B, 3, H, W]``."""
    watcher = Watcher()
    with install(model, watcher):
        model(pixels)
    return watcher.seen
