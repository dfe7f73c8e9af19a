"""Known values of the paired comparison and of the intervals."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy.special import gammaln, xlogy

from asap_eval.errors import BadValueError
from asap_eval.experiment import Published
from asap_eval.report.experiment.verdict import verdict, word_of
from asap_eval.statistics import (
    mcnemar_p,
    mean_interval,
    paired,
    paired_interval,
    share_interval,
)


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
    """Of many disagreements, that of a bootstrap that really draws images."""
    before, after = _runs(600, 90, 30, 280)
    difference = 100 * (np.array(after, float) - np.array(before, float))
    draws = np.random.default_rng(5).integers(1000, size=(4_000, 1000))
    slow = np.percentile(difference[draws].mean(1), [2.5, 97.5])
    assert paired(before, after).ci95 == pytest.approx(tuple(slow), abs=0.2)


def test_order_of_the_images_does_not_matter_but_pairing_does() -> None:
    before, after = _runs(50, 30, 10, 10)
    order = np.random.default_rng(0).permutation(100)
    shuffled = paired([before[i] for i in order], [after[i] for i in order])
    assert shuffled == paired(before, after)
    unpaired = paired([before[i] for i in order], after)
    assert unpaired.delta_top1 == shuffled.delta_top1
    assert unpaired.ci95 != shuffled.ci95


@pytest.mark.parametrize("count", [1, 10, 400, 50_000])
def test_equal_runs_are_not_equal_models(count: int) -> None:
    result = paired(*_runs(count, 0, 0, 0))
    assert (result.delta_top1, result.mcnemar_p) == (0.0, 1.0)
    low, high = result.ci95
    assert low == pytest.approx(-high)
    # A loss of this share goes unseen on all images in one run of fifty, and more or less.
    unseen = (1 - high / 100) ** count
    assert 0.005 < unseen < 0.06


@pytest.mark.parametrize(("lost", "won", "count"), [(9, 3, 100), (0, 7, 30), (40, 10, 500)])
def test_the_bounds_are_where_tango_s_score_is_the_normal_95(
    lost: int, won: int, count: int
) -> None:
    """The likeliest share lost searched for here, not by a formula."""
    for bound in map(float, paired_interval(lost, won, count)):
        shares = np.linspace(max(0, -bound), min(1, (1 - bound) / 2), 400_001)[1:-1]
        likely = (
            xlogy(lost, shares)
            + xlogy(won, shares + bound)
            + xlogy(count - lost - won, 1 - 2 * shares - bound)
        )
        share = shares[likely.argmax()]
        spread = math.sqrt(count * (2 * share + bound - bound**2))
        assert (abs(won - lost - count * bound) - 0.5) / spread == pytest.approx(1.96, abs=1e-3)


def chances(lost: np.ndarray, won: np.ndarray, count: int, rates: list[float]) -> np.ndarray:
    """Multinomial probabilities of tables, ``rates`` of a lost, a won and any other image."""
    cells = np.stack([lost, won, count - lost - won], axis=1)
    logs = gammaln(count + 1) - gammaln(cells + 1).sum(1) + xlogy(cells, rates).sum(1)
    return np.exp(logs)


def all_tables(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of lost and won images that a rate of 20 % can lead to."""
    most = min(count, int(0.2 * count + 10 * math.sqrt(0.2 * count) + 5))
    lost, won = (grid.ravel() for grid in np.mgrid[: most + 1, : most + 1])
    return lost[lost + won <= count], won[lost + won <= count]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 24, 60, 100, 200, 400, 1000])
def test_the_paired_interval_covers(count: int) -> None:
    """Exactly, nothing drawn: the probability of every table whose interval holds the truth."""
    lost, won = all_tables(count)
    low, high = paired_interval(lost, won, count)
    least = 1.0
    for rate in sorted({0.001, 0.003, 0.01, 0.03, 0.1, 0.2, *(n / count for n in (2, 4, 6, 8))}):
        for share in (0.0, 0.1, 0.3, 0.5, 1.0) if rate <= 0.2 else ():
            truth = rate * (2 * share - 1)
            weights = chances(lost, won, count, [rate * (1 - share), rate * share, 1 - rate])
            assert weights.sum() == pytest.approx(1, abs=1e-6)
            holds = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
            least = min(least, float(weights[holds].sum()))
    assert least >= 0.94


def test_the_interval_and_mcnemar_s_p_say_the_same() -> None:
    lost, won = (grid.ravel() for grid in np.mgrid[:41, :41])
    for count in (80, 400, 50_000):
        low, high = paired_interval(lost, won, count)
        holds_zero = (low <= 0) & (high >= 0)
        assert (holds_zero == (mcnemar_p(lost, won) >= 0.05)).all()
    assert paired(*_runs(56, 4, 0, 0)).ci95[1] > 0  # p = 0.125


@pytest.mark.parametrize("count", [24, 100, 200, 400, 1000])
@pytest.mark.parametrize(("rate", "loss"), [(0.01, 0.5), (0.03, 1.0), (0.1, 3.55)])
def test_a_method_that_loses_what_is_published_seldom_differs(
    count: int, rate: float, loss: float
) -> None:
    """Exactly: the probability of every table on which the verdict is ``differs``."""
    lost, won = all_tables(count)
    likely = chances(lost, won, count, [(rate + loss / 100) / 2, (rate - loss / 100) / 2, 1 - rate])
    delta, low, high = (100 * x for x in ((won - lost) / count, *paired_interval(lost, won, count)))
    wrong = 0.0
    for at in (likely > 1e-6).nonzero()[0].tolist():
        word = verdict(
            Published(delta=-loss), delta=delta[at], low=low[at], high=high[at], macs=None
        )
        wrong += likely[at] * (word_of(word) == "differs")
    assert wrong <= 0.05


def test_a_published_figure_on_other_images_has_an_error_of_its_own() -> None:
    """10 000 images beside 50 000 others, a true loss of one point, 4 % lost or won."""
    generator = np.random.default_rng(0)
    rates = [0.025, 0.015, 0.96]
    differs = 0
    for _ in range(600):
        there = generator.multinomial(50_000, rates)
        here = generator.multinomial(10_000, rates)
        low, high = (100 * float(bound) for bound in paired_interval(here[0], here[1], 10_000))
        found = verdict(
            Published(delta=round(100 * float(there[1] - there[0]) / 50_000, 2)),
            delta=float(here[1] - here[0]) / 100,
            low=low,
            high=high,
            macs=None,
            n=10_000,
            samples=50_000,
        )
        differs += found == "differs"
    assert differs <= 0.06 * 600  # 5 %, and one standard error of this simulation


@pytest.mark.parametrize("count", [5, 24, 100, 400, 1000])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_interval_of_scores_in_part_covers(count: int, rate: float) -> None:
    """VQA accuracies: 0, 0.3, 0.6, 0.9 or 1, before and after."""
    generator = np.random.default_rng(count)
    moves = np.array([-1, -0.6, -0.3, 0.3, 0.6])
    weights = np.array([0.3, 0.2, 0.3, 0.1, 0.1])
    truth, held, draws = rate * float(moves @ weights), 0, 600
    for _ in range(draws):
        moved = generator.random(count) < rate
        values = np.where(moved, generator.choice(moves, size=count, p=weights), 0)
        bounds = mean_interval(values.tolist(), (-1, 1))
        assert bounds is not None
        held += bounds[0] <= truth <= bounds[1]
    assert held / draws >= 0.94


@pytest.mark.parametrize("count", [1, 3, 10, 24, 100, 400])
def test_the_interval_of_a_bounded_mean_covers_at_its_worst(count: int) -> None:
    """Exactly, of values that lie at the bounds alone: no others of their mean spread as much."""
    hits = np.arange(count + 1)
    found = [mean_interval([1.0] * x + [0.0] * (count - x), (0, 1)) for x in hits.tolist()]
    low, high = np.array(found, dtype=float).T
    for share in np.linspace(0, 1, 101):
        weights = chances(hits, count - hits, count, [share, 1 - share, 0])
        assert weights[(low <= share) & (share <= high)].sum() >= 0.94


def test_shares_have_the_exact_interval() -> None:
    """Against figures of any table of Clopper and Pearson."""
    assert share_interval(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    assert share_interval(10, 10) == pytest.approx((0.6915, 1), abs=1e-4)
    assert share_interval(8, 32) == pytest.approx((0.1146, 0.4340), abs=1e-4)


def test_bad_input() -> None:
    with pytest.raises(BadValueError, match="2 and 1"):
        paired([True, False], [True])
    with pytest.raises(BadValueError, match="0 and 0"):
        paired([], [])
    with pytest.raises(BadValueError, match="finite"):
        mean_interval([1.0, math.nan])
    with pytest.raises(BadValueError, match="finite"):
        mean_interval([])
    with pytest.raises(BadValueError, match="Values from 0 to 2 are not in"):
        mean_interval([0.0, 2.0], (0, 1))


def test_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    found = mean_interval(values.tolist())
    error = 1.9659 * values.std(ddof=1) / math.sqrt(400)  # Student's t of 399
    assert found == pytest.approx((values.mean() - error, values.mean() + error), abs=1e-4)
    assert mean_interval([1.0, 3.0]) == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)


def test_what_one_sample_or_equal_samples_say() -> None:
    assert mean_interval([3.0]) is None
    assert mean_interval([3.0] * 5) == (3.0, 3.0)  # a method that costs every image the same
    low, high = mean_interval([1.0] * 5, (0, 1)) or (1.0, 1.0)
    assert low < 0.6  # 0.478 where they are right or wrong: Clopper and Pearson
    assert high == 1
    low, high = mean_interval([0.5], (0, 1)) or (0.5, 0.5)
    assert high - low > 0.9


def test_an_interval_of_many_values_takes_little_memory() -> None:
    values = np.random.default_rng(0).normal(size=500_000)
    tracemalloc.start()
    try:
        found = mean_interval(values)  # type: ignore[arg-type]
        assert found is not None
        assert tracemalloc.get_traced_memory()[1] < 6 * values.nbytes
    finally:
        tracemalloc.stop()
    assert found[1] - found[0] == pytest.approx(2 * 1.96 / math.sqrt(500_000), rel=0.01)
