"""Figures over images: distributions, and shares with their intervals.

Shares run from 0 to 1; ``<name>_ci95`` is the 95 % interval of ``<name>`` over images: Wilson's for
a share of images (a share of 0 or 1 still has a width), a bootstrap for a mean over images.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from asap_eval.bench.statistics import mean_interval

NORMAL_95 = 1.959963984540054
"""Half the width of a 95 % interval in standard deviations."""

QUANTILES = (5, 25, 50, 75, 95)


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


def share_interval(hits: int, count: int) -> list[float]:
    """Wilson's 95 % interval of a share of ``count`` images."""
    share, z2 = hits / count, NORMAL_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    spread = share * (1 - share) / count + z2 / (4 * count**2)
    half = NORMAL_95 * math.sqrt(spread) / (1 + z2 / count)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def shares(name: str, flags: np.ndarray) -> dict[str, list[Any]]:
    """``name`` and ``name_ci95``: the share of images in each column of ``[n, L]`` bool."""
    hits = flags.sum(0).tolist()
    return {
        name: [hit / len(flags) for hit in hits],
        f"{name}_ci95": [share_interval(hit, len(flags)) for hit in hits],
    }


def pooled(name: str, flags: np.ndarray) -> dict[str, Any]:
    """The share over all images and steps of ``[n, steps]``.

    Its interval is over images: the steps of one image are not independent.
    """
    of_image = flags.mean(1)
    return {name: float(of_image.mean()), f"{name}_ci95": list(mean_interval(of_image.tolist()))}
