"""The scaling law: its points, the fit, and what of the printed figures holds."""

from __future__ import annotations

import numpy as np
import pytest

from asap_eval.audit.scaling_law import fitted
from asap_eval.paper.scaling_law import ALPHA, BETA, Point, points
from asap_eval.report.paper.scaling_law import scaling_law
from asap_eval.report.text import as_text

SIZES, COUNTS = (0.5, 1.8, 4.0, 7.0), (1, 4, 16, 36, 64, 144, 576)


def made(scale: float, alpha: float, beta: float, floor: float, noise: float) -> list[Point]:
    g = np.random.default_rng(0)
    return [
        Point(size, count, 1 - (scale / size**alpha / count**beta + floor) + noise * g.normal())
        for size in SIZES
        for count in COUNTS
    ]


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_a_law_is_found_again(floor: float) -> None:
    law = fitted(made(0.5, 0.1, 0.03, floor, 0.0))
    assert law.floor == pytest.approx(floor, abs=0.01)
    assert law.alpha == pytest.approx(0.1, rel=0.02)
    assert law.beta == pytest.approx(0.03, rel=0.02)
    noisy = fitted(made(0.5, 0.1, 0.03, floor, 0.002))
    assert noisy.alpha_ci95[0] <= 0.1 <= noisy.alpha_ci95[1]
    assert noisy.beta_ci95[0] <= 0.03 <= noisy.beta_ci95[1]


def test_the_published_points() -> None:
    """Figures found by another program: A 0.591, alpha 0.0709, beta 0.0151, d 0, 3.8e-4."""
    assert len(points()) == 28
    law = fitted(points())
    assert law.scale == pytest.approx(0.591, abs=5e-4)
    assert law.alpha == pytest.approx(0.0709, abs=5e-5)
    assert law.beta == pytest.approx(0.0151, abs=5e-5)
    assert law.floor == 0
    assert law.squares == pytest.approx(3.8e-4, abs=5e-6)
    assert law.alpha / law.beta == pytest.approx(4.7, abs=0.05)
    assert law.best_tokens(0) == 1
    assert law.best_tokens(50) == pytest.approx(13.5, abs=0.1)
    assert law.alpha_ci95[0] < ALPHA < law.alpha_ci95[1]
    assert law.beta_ci95[0] < BETA < law.beta_ci95[1]
    assert 100 * (law.error(7, 64) - law.error(7, 576)) == pytest.approx(1.6, abs=0.05)


def test_where_tokens_count_for_more_there_is_no_best_number() -> None:
    assert fitted(made(0.5, 0.02, 0.04, 0.0, 0.0)).best_tokens(50) == float("inf")


def test_what_the_experiment_says_of_the_law() -> None:
    printed = as_text(scaling_law(), "markdown")
    for said in ("48.10", "53.54", "0.0709 [", "reproduced", "1.8 (of its points)", "no points"):
        assert said in printed, said
