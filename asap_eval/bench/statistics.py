"""How sure a difference is: paired bootstrap, exact McNemar test, interval of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asap_eval.errors import BadValueError

DRAWS = 10_000
LEVEL = 95.0

_CHUNK = 1 << 22
"""Numbers drawn at once: bounds the memory of a bootstrap."""


@dataclass(frozen=True)
class Paired:
    """Another run against its baseline on the same images.

    Attributes:
        delta_top1: difference in percentage points, negative = worse than the baseline.
        ci95: its 95 % bootstrap interval. mcnemar_p: exact two-sided p, in 0..1.
    """

    delta_top1: float
    ci95: tuple[float, float]
    mcnemar_p: float


def paired(baseline: Sequence[bool], other: Sequence[bool], seed: int = 0) -> Paired:
    """Compare two runs image by image; a failed image is wrong in both.

    Args:
        baseline, other: whether each image was right, in the same order.

    Raises:
        BadValueError: no images, or not the same number.
    """
    if len(baseline) != len(other) or not len(baseline):
        raise BadValueError(
            f"A paired comparison needs the same images: got {len(baseline)} and {len(other)}."
        )
    before, after = np.asarray(baseline, dtype=bool), np.asarray(other, dtype=bool)
    count = len(before)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    # Drawing images with replacement draws these three kinds of images multinomially.
    shares = np.array([lost, won, count - lost - won]) / count
    draws = np.random.default_rng(seed).multinomial(count, shares, size=DRAWS)
    deltas = 100 * (draws[:, 1] - draws[:, 0]) / count
    return Paired(100 * (won - lost) / count, interval(deltas), mcnemar_p(lost, won))


def mcnemar_p(lost: int, won: int) -> float:
    """Exact two-sided binomial p of the images that only one of two runs got right."""
    total = lost + won
    term = tail = 1  # binomial coefficients, exact in integers
    for at in range(min(lost, won)):
        term = term * (total - at) // (at + 1)
        tail += term
    return min(1.0, 2 * tail / 2**total) if total else 1.0


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a mean.

    Raises:
        BadValueError: no values, or some that are not finite.
    """
    data = np.asarray(values, dtype=np.float64)
    if not data.size or not math.isfinite(float(data.sum())):
        raise BadValueError(f"An interval needs finite values; got {len(values)} of them.")
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // data.size)
    means = [
        data[generator.integers(data.size, size=(min(rows, DRAWS - at), data.size))].mean(1)
        for at in range(0, DRAWS, rows)
    ]
    return interval(np.concatenate(means))


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws."""
    low, high = np.percentile(draws, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
