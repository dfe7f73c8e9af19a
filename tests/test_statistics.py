"""Known values of the paired comparison and of the intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asap_eval.bench.statistics import mcnemar_p, mean_interval, paired
from asap_eval.errors import BadValueError


def _runs(both: int, lost: int, won: int, neither: int) -> tuple[list[bool], list[bool]]:
    before = [True] * (both + lost) + [False] * (won + neither)
    after = [True] * both + [False] * lost + [True] * won + [False] * neither
    return before, after


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 0, 1.0),
        (10, 0, 2 / 1024),
        (0, 10, 2 / 1024),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (15, 5, 0.04138946533203125),  # this one and the next: scipy.stats.binomtest
        (121, 59, 4.4344492637551645e-06),
    ],
)
def test_exact_mcnemar(lost: int, won: int, p: float) -> None:
    assert mcnemar_p(lost, won) == pytest.approx(p, rel=1e-12)


def test_exact_mcnemar_of_a_whole_validation_set_is_finite() -> None:
    assert 0 < mcnemar_p(2600, 2400) < 0.01
    assert mcnemar_p(25_000, 10) == 0.0


def test_difference_and_p() -> None:
    result = paired(*_runs(300, 40, 10, 150))
    assert result.delta_top1 == pytest.approx(-6.0)
    assert result.mcnemar_p == pytest.approx(mcnemar_p(40, 10))


def test_interval_is_the_normal_one_for_many_images() -> None:
    """The standard error of a paired difference of shares, in percent."""
    lost, won, count = 400, 250, 5000
    result = paired(*_runs(3000, lost, won, count - 3000 - lost - won))
    delta = (won - lost) / count
    error = 100 * math.sqrt(((lost + won) / count - delta**2) / count)
    assert result.ci95[0] == pytest.approx(100 * delta - 1.96 * error, abs=0.06)
    assert result.ci95[1] == pytest.approx(100 * delta + 1.96 * error, abs=0.06)


def test_interval_is_that_of_drawing_images() -> None:
    """The multinomial short cut against a bootstrap that really draws images."""
    before, after = _runs(60, 9, 3, 28)
    difference = 100 * (np.array(after, float) - np.array(before, float))
    draws = np.random.default_rng(5).integers(100, size=(10_000, 100))
    slow = np.percentile(difference[draws].mean(1), [2.5, 97.5])
    assert paired(before, after).ci95 == pytest.approx(tuple(slow), abs=1.0)


def test_order_of_the_images_does_not_matter_but_pairing_does() -> None:
    before, after = _runs(50, 30, 10, 10)
    order = np.random.default_rng(0).permutation(100)
    shuffled = paired([before[i] for i in order], [after[i] for i in order])
    assert shuffled == paired(before, after)
    unpaired = paired([before[i] for i in order], after)
    assert unpaired.delta_top1 == shuffled.delta_top1
    assert unpaired.ci95 != shuffled.ci95


def test_equal_runs() -> None:
    result = paired(*_runs(7, 0, 0, 3))
    assert (result.delta_top1, result.ci95, result.mcnemar_p) == (0.0, (0.0, 0.0), 1.0)


def test_the_seed_fixes_the_interval() -> None:
    runs = _runs(60, 9, 3, 28)
    assert paired(*runs) == paired(*runs)
    assert paired(*runs).ci95 == pytest.approx(paired(*runs, seed=1).ci95, abs=1.0)


def test_bad_input() -> None:
    with pytest.raises(BadValueError, match="2 and 1"):
        paired([True, False], [True])
    with pytest.raises(BadValueError, match="0 and 0"):
        paired([], [])
    with pytest.raises(BadValueError, match="finite"):
        mean_interval([1.0, math.nan])
    with pytest.raises(BadValueError, match="finite"):
        mean_interval([])


def test_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    low, high = mean_interval(values.tolist())
    error = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - error, abs=0.02)
    assert high == pytest.approx(values.mean() + error, abs=0.02)
    assert mean_interval([3.0] * 5) == (3.0, 3.0)


def test_interval_of_a_mean_over_many_values_draws_in_pieces() -> None:
    """More values than fit in one piece: still 10 000 draws, and the same kind of interval."""
    values = np.arange(2000) / 2000
    low, high = mean_interval(values.tolist())
    error = 1.96 * values.std() / math.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=5e-4)
