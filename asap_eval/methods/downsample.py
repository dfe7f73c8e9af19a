"""Control: the image itself made smaller, so that the whole model runs on fewer patches."""

from __future__ import annotations

from dataclasses import dataclass

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Reducer, register


@register(
    "downsample",
    Card(
        paper="control",
        licence="ours",
        training="training-free",
        knob="k",
        knob_meaning="share of patches that the resized image has, 0 < k <= 1; the nearest grid",
        fixed_count=True,
        deviations="none known; counts as fired at block 1",
    ),
)
@dataclass
class Downsample(Reducer):
    """Resize the image (antialiased bicubic) to fewer patches: what a smaller input would give.

    The position embedding is resampled as the model's own library does, prefix tokens stay, and
    every block, the first included, runs on fewer tokens; so does the stem. The resized pixels are
    those the model would have seen, already normalised.

    Attributes:
        k: share of the patches. The grid of h x w patches is the one whose number is nearest to
            ``k P`` among those of (nearly) the model's own proportions: on a square grid h and w
            differ by 1 at most. Of two equally near the squarer, then the wider.
    """

    k: float = 0.7
    site = "input"

    def grid(self, own: tuple[int, int]) -> tuple[int, int]:
        if not 0 < self.k <= 1:
            raise BadValueError(f"downsample: k={self.k} is a share: give a value in (0, 1].")
        height, width = own
        wanted = self.k * height * width

        def rank(grid: tuple[int, int]) -> tuple[float, int, int]:
            return abs(grid[0] * grid[1] - wanted), _skew(grid, own), grid[0]

        every = ((h, w) for h in range(1, height + 1) for w in range(1, width + 1))
        return min((grid for grid in every if _skew(grid, own) <= max(own)), key=rank)

    def check(self, batch: Batch) -> None:
        self.grid(batch.grid)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1 / batch.patches, 1.0


def _skew(grid: tuple[int, int], own: tuple[int, int]) -> int:
    """How far a grid is from the proportions of another, in patches of a side of it squared."""
    return abs(grid[0] * own[1] - grid[1] * own[0])
