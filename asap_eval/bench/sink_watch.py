"""Where attention gathers in the unpruned model, after each block: two rows of the walk suffice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

import asap_eval.bench.walk.random_walk as walk
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.tokens import Reduction

ALPHA = 0.5
"""Share of attention in a step of the walk: ASAP's default."""


class SinkWatch(Reducer):
    """Removes nothing, and notes two patches of each image after each block of the walk C.

    ``heaviest``: the largest column mass of C; ``cls``: the largest entry of the class token's row
    of C (only where there is a class token). Both rows walk by themselves: ``m_l = m_(l-1) T_l``.
    """

    name: ClassVar[str] = "sink_watch"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ATTENTION})

    def begin(self, batch: Batch) -> dict[str, Tensor]:
        """Rows of the walk by name, ``[B, 1, N]`` each."""
        shape = (batch.count, 1, batch.tokens)
        rows = {"heaviest": torch.ones(shape, device=batch.device)}
        if batch.has_cls:
            rows["cls"] = torch.zeros(shape, device=batch.device)
            rows["cls"][:, :, 0] = 1
        return rows

    def watch(self, block: int, state: dict[str, Tensor]) -> bool:
        return True

    def decide(self, view: View, state: dict[str, Tensor]) -> Reduction | None:
        attention = view.attention.float()
        for name, row in state.items():
            state[name] = walk.step(row, attention, ALPHA, "walk")
            patches = state[name][:, 0, view.prefix :]
            view.note(_note(name, view.block), view.images, patches.argmax(1))
        return None


def watched(notes: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Patch of each image after each block, ``[B, L]`` by name; empty where nothing was watched."""
    return {
        name: torch.stack([notes[_note(name, block)] for block in range(1, depth + 1)], 1)
        for name in ("heaviest", "cls")
        if _note(name, 1) in notes
    }


def _note(name: str, block: int) -> str:
    return f"{name} after block {block}"
