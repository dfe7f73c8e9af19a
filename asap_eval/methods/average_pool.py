"""Control for what is handed to a language model: means over a coarser grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Reducer, View, register
from asap_eval.tokens import Reduction


@register(
    "average_pool",
    Card(
        paper="control",
        licence="ours",
        training="training-free",
        knob="k",
        knob_meaning="tokens handed on per crop, a product of two numbers that fit the grid",
        fixed_count=True,
    ),
)
@dataclass
class AveragePool(Reducer):
    """Replace the patches of a tower's output by means over cells as even as the grid allows.

    Attributes:
        k: cells, as square as their number allows: 64 = 8 x 8, 128 = 8 x 16, 192 = 12 x 16. Where
            they do not divide the grid, neighbouring cells differ by one row or column of patches.
    """

    k: int = 64
    site = "output"

    def check(self, batch: Batch) -> None:
        cells(self.k, batch.grid)

    def begin(self, batch: Batch) -> Batch:
        return batch

    def decide(self, view: View, state: Batch) -> Reduction | None:
        (down, across), (rows, columns) = state.grid, cells(self.k, state.grid)
        patch = torch.arange(state.patches, device=view.size.device)
        row, column = patch // across * rows // down, patch % across * columns // across
        prefix = torch.arange(view.prefix, device=patch.device)
        group = torch.cat([prefix, view.prefix + row * columns + column])
        return Reduction(group.repeat(len(view.images), 1))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.patches

    def knob_values(self, batch: Batch) -> list[int]:
        down, across = batch.grid
        return sorted({r * c for r in range(1, down + 1) for c in range(1, across + 1)})


def cells(k: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of ``k`` cells: the most even pair that fits the grid, rows the fewer.

    Raises:
        BadValueError: no two numbers whose product is ``k`` fit.
    """
    down, across = grid
    fits = [(rows, k // rows) for rows in range(1, down + 1) if k % rows == 0]
    fits = [pair for pair in fits if pair[1] <= across]
    if k < 1 or not fits:
        raise BadValueError(
            f"average_pool: k={k}: no grid of that many cells fits {down} x {across} patches; give "
            f"a product of two numbers up to {down} and {across}."
        )
    return min(fits, key=lambda pair: (abs(pair[0] - pair[1]), pair))
