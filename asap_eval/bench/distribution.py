"""Figures over images: distributions, and shares with their intervals.

Shares run from 0 to 1; ``<name>_ci95`` is the 95 % interval of ``<name>`` over images: exact for a
share of images, that of a bounded mean for a mean over images (`statistics`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from asap_eval.bench.statistics import mean_interval, share_interval

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
