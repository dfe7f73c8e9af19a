"""The scaling law of tokens and parameters, fitted again to its published points.

``Y(N, T) = A / N^alpha / T^beta + d``: the mean error Y of a model with N parameters (in 10^9) and
T visual tokens (Li et al., arXiv 2411.03312). Least squares over A, alpha, beta and d >= 0; d
hardly shows in so narrow a range of errors, so the intervals leave it unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from asap_eval.paper.scaling_law import Point

_TAIL = 0.975
_STEPS = 50
"""Of Gauss and Newton's method, which settles on these points in a few."""
_FLOORS = 200
"""Values of d that are tried, from 0 to just below the least error."""

Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Law:
    """A fit.

    Attributes:
        scale, alpha, beta, floor: A, the exponents and d. squares: sum of the squared residuals.
        alpha_ci95, beta_ci95: intervals with all other parameters unknown.
    """

    scale: float
    alpha: float
    beta: float
    floor: float
    squares: float
    alpha_ci95: tuple[float, float]
    beta_ci95: tuple[float, float]

    def error(self, parameters: float, tokens: float) -> float:
        """Y, 0 to 1."""
        return self.scale / parameters**self.alpha / tokens**self.beta + self.floor

    def best_tokens(self, text: float) -> float:
        """Visual tokens of the least error at a fixed inference cost ``2 N (text + T)``, at least
        1; infinite where tokens count for more than parameters."""
        if self.alpha <= self.beta:
            return float("inf")
        return max(1.0, self.beta * text / (self.alpha - self.beta))


def fitted(points: Sequence[Point]) -> Law:
    """The law of some points, of which there are more than four."""
    parameters, tokens, errors = (
        np.array(values, dtype=np.float64)
        for values in zip(*((p.parameters, p.tokens, 1 - p.score) for p in points), strict=True)
    )
    terms = np.stack([np.ones_like(errors), -np.log(parameters), -np.log(tokens)], 1)
    tried = [
        (float(floor), *_without(terms, errors - floor))
        for floor in np.linspace(0, errors.min(), _FLOORS, endpoint=False)
    ]
    floor, best, squares, _ = min(tried, key=lambda one: one[2])
    freedom = len(errors) - 4
    # Profile: a value belongs to the interval where the best fit with it is this much worse.
    bound = squares * (1 + float(stdtrit(freedom, _TAIL)) ** 2 / freedom)
    ends = [
        [
            value[place] + sign * np.sqrt((bound - left) * spread[place])
            for _, value, left, spread in tried
            if left <= bound
            for sign in (-1, 1)
        ]
        for place in (1, 2)
    ]
    alpha, beta = ((float(min(values)), float(max(values))) for values in ends)
    return Law(
        scale=float(np.exp(best[0])),
        alpha=float(best[1]),
        beta=float(best[2]),
        floor=floor,
        squares=squares,
        alpha_ci95=alpha,
        beta_ci95=beta,
    )


def _without(terms: Numbers, errors: Numbers) -> tuple[Numbers, float, Numbers]:
    """Least squares of ``exp(terms x)`` to errors less d: x, the sum of squares, and how far each
    part of x may move for a sum that is larger by one, squared."""
    x: Numbers = np.linalg.lstsq(terms, np.log(errors), rcond=None)[0]
    for _ in range(_STEPS):
        value = np.exp(terms @ x)
        slope = value[:, None] * terms
        x = x + np.linalg.lstsq(slope, errors - value, rcond=None)[0]
    value = np.exp(terms @ x)
    slope = value[:, None] * terms
    return x, float(((errors - value) ** 2).sum()), np.diag(np.linalg.inv(slope.T @ slope))
