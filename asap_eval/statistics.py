"""How sure a number is: 95 % intervals of paired differences, means and shares, McNemar's test;
and distributions of a value over images.

Nothing is drawn at random, and few samples that agree are no certainty: every interval keeps a
width that its number of samples explains. ``benchmarks/coverage.py`` says how often each of them
holds the truth.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize.elementwise import find_root
from scipy.special import ndtri, stdtrit
from scipy.stats import binom, binomtest

from asap_eval.errors import BadValueError

LEVEL, P = 0.95, 0.05
"""Of every interval, and McNemar's p below which a difference is not 0: they agree."""

_TAIL = (1 + LEVEL) / 2
_CORRECTION = 0.5
"""Continuity correction of the score: half of the least step that ``won - lost`` can make."""
QUANTILES = (5, 25, 50, 75, 95)
"""Of every distribution, in percent."""

_ADDED = 2
"""Samples at either bound that are added to a mean of bounded values."""


@dataclass(frozen=True)
class Paired:
    """Another run against its baseline on the same images.

    Attributes:
        delta_top1: difference in percentage points, negative = worse than the baseline.
        ci95: its 95 % interval (`paired_interval`). mcnemar_p: exact two-sided p, in 0..1.
    """

    delta_top1: float
    ci95: tuple[float, float]
    mcnemar_p: float


def paired(baseline: Sequence[int], other: Sequence[int]) -> Paired:
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
    low, high = (100 * float(bound) for bound in paired_interval(lost, won, count))
    return Paired(100 * (won - lost) / count, (low, high), float(mcnemar_p(lost, won)))


def mcnemar_p(lost: ArrayLike, won: ArrayLike) -> np.ndarray:
    """Exact two-sided binomial p of the images that only one of two runs got right.

    Elementwise over arrays of counts, as `paired_interval`.
    """
    fewer, total = np.minimum(lost, won), np.add(lost, won)
    return np.minimum(1.0, 2 * binom.cdf(fewer, total, 0.5))


def paired_interval(
    lost: ArrayLike, won: ArrayLike, count: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a paired difference of shares, ``(won - lost) / count``.

    Tango's score interval (Statistics in Medicine 17, 1998): the differences whose score, with a
    continuity correction, is not beyond the normal 95 %. Of the difference 0 McNemar's exact test
    decides: 0 lies in the interval if and only if its p is at least 0.05.

    Args:
        lost, won: images that only the baseline, only the other run got right.
        count: all images, at least one.
    """
    lost, won, count = (
        np.asarray(n, dtype=np.float64) for n in np.broadcast_arrays(lost, won, count)
    )
    middle = (won - lost) / count
    low, high = (_score_bound(lost, won, count, middle, end) for end in (-1.0, 1.0))
    open_to_zero = mcnemar_p(lost, won) >= P
    return (
        np.where(open_to_zero, np.minimum(low, 0), low),
        np.where(open_to_zero, np.maximum(high, 0), high),
    )


def _score_bound(
    lost: np.ndarray, won: np.ndarray, count: np.ndarray, middle: np.ndarray, end: float
) -> np.ndarray:
    """Where between the measured difference and ``end`` (-1 or 1) the score leaves the 95 %."""

    def beyond(delta: np.ndarray, lost: np.ndarray, won: np.ndarray, n: np.ndarray) -> np.ndarray:
        # The likeliest share lost, given the difference: root of a quadratic (Tango's q21).
        linear = (2 * n - won + lost) * delta - lost - won
        constant = -lost * delta * (1 - delta)
        root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0))
        share = (root - linear) / (4 * n)
        spread = np.sqrt(np.maximum(n * (2 * share + delta * (1 - delta)), 0))
        return np.abs(won - lost - n * delta) - _CORRECTION - ndtri(_TAIL) * spread

    inside = beyond(np.full_like(middle, end), lost, won, count) <= 0
    start = np.where(inside, end, middle)
    found = find_root(beyond, (start, np.full_like(middle, end)), args=(lost, won, count))
    return np.where(inside, end, found.x)


def mean_interval(
    values: Sequence[float], within: tuple[float, float] | None = None
) -> tuple[float, float] | None:
    """95 % interval of a mean over samples, by Student's t; None where one sample says nothing.

    Values that are all equal give a point, unless they are bounded: two samples are then added at
    either bound (Agresti and Coull's rule for shares, for any score), because others may differ.
    They pull the middle, too, away from a bound that the mean is near: without that the interval
    holds a rare exception too seldom.

    Args:
        within: least and greatest value that a sample can have; None = no bound.

    Raises:
        BadValueError: no values, or some that are not finite or not ``within``.
    """
    data = np.asarray(values, dtype=np.float64)
    if not data.size or not math.isfinite(float(data.sum())):
        raise BadValueError(f"An interval needs finite values; got {len(values)} of them.")
    freedom = data.size - 1
    low, high = -math.inf, math.inf
    if within is not None:
        low, high = within
        if data.min() < low or data.max() > high:
            raise BadValueError(
                f"Values from {data.min():g} to {data.max():g} are not in {within}."
            )
        data = np.concatenate([data, np.repeat(within, _ADDED)])
    elif not freedom:
        return None
    half = stdtrit(max(freedom, 1), _TAIL) * data.std(ddof=1) / math.sqrt(data.size)
    middle = data.mean()
    return max(float(low), float(middle - half)), min(float(high), float(middle + half))


def share_interval(
    hits: int, count: int, method: Literal["exact", "wilson"] = "exact"
) -> tuple[float, float]:
    """95 % interval of a share of ``count`` samples, 0 to 1.

    Args:
        method: Clopper and Pearson's, or Wilson's, of which Newcombe's rule makes the interval of
            a difference (alone it misses shares near 0 and 1 too often).
    """
    found = binomtest(hits, count).proportion_ci(LEVEL, method)
    return float(found.low), float(found.high)


def square_and_add(
    before: tuple[float, float, float], after: tuple[float, float, float]
) -> tuple[float, float]:
    """95 % interval of ``after - before`` from the value, low and high end of each.

    Newcombe's rule for independent estimates (Statistics in Medicine 17, 1998); on equal samples it
    is too wide rather than too narrow. Two intervals that just overlap may well differ by it.
    """
    change = after[0] - before[0]
    return (
        change - math.hypot(after[0] - after[1], before[2] - before[0]),
        change + math.hypot(after[2] - after[0], before[0] - before[1]),
    )


def distribution(values: np.ndarray) -> dict[str, float | int | None]:
    """``{n mean sd q5 q25 q50 q75 q95}`` of the values that are defined."""
    known = values[~np.isnan(values)]
    marks = [f"q{q}" for q in QUANTILES]
    if not known.size:
        return {"n": 0, **dict.fromkeys(["mean", "sd", *marks])}
    cuts = np.percentile(known, QUANTILES)
    return {
        "n": int(known.size),
        "mean": float(known.mean()),
        "sd": float(known.std(ddof=1)) if known.size > 1 else None,
        **dict(zip(marks, map(float, cuts), strict=True)),
    }


def over(values: np.ndarray) -> list[dict[str, float | int | None]]:
    """A distribution over images for each column of ``[n, L]``."""
    return [distribution(column) for column in values.T]


def shares(name: str, flags: np.ndarray) -> dict[str, list[Any]]:
    """``name`` and ``name_ci95``: the share of images in each column of ``[n, L]`` bool."""
    hits = flags.sum(0).tolist()
    return {
        name: [hit / len(flags) for hit in hits],
        f"{name}_ci95": [list(share_interval(hit, len(flags))) for hit in hits],
    }


def pooled(name: str, flags: np.ndarray) -> dict[str, Any]:
    """The share over all images and steps of ``[n, steps]``.

    Its interval is over images: the steps of one image are not independent.
    """
    of_image = flags.mean(1)
    return mean(name, of_image.tolist(), (0.0, 1.0))


def mean(name: str, values: Sequence[float], within: tuple[float, float]) -> dict[str, Any]:
    """``name`` and ``name_ci95``: a mean over images of a bounded value; None of no images."""
    if not values:
        return {name: None, f"{name}_ci95": None}
    bounds = mean_interval(values, within)
    assert bounds is not None
    return {name: statistics.fmean(values), f"{name}_ci95": list(bounds)}
