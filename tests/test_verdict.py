"""Verdicts from numbers made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from asap_eval.experiment import Published
from asap_eval.report.experiment.verdict import unlike, verdict

PAPER = Published(baseline=81.8, acc=81.3, delta=-0.5, macs=-35.0)


def judged(published: Published = PAPER, **changes: Any) -> str:
    measured = {"delta": -1.0, "low": -2.0, "high": -0.2, "macs": -35.0, **changes}
    return verdict(published, **measured)


def test_inside_the_interval_is_reproduced_ends_included() -> None:
    assert judged() == "reproduced"
    assert judged(high=-0.5) == "reproduced"
    assert judged(low=-0.5, high=1.0, delta=0.2) == "reproduced"
    # By its two decimals the published figure may be a hundredth off.
    assert judged(high=-0.51) == "reproduced"
    assert judged(high=-0.52) == "differs"
    assert judged(low=-0.48, high=1.0, delta=0.2) == "differs"
    assert judged(low=-0.48, high=1.0, delta=0.2, rounding=0.1) == "reproduced"


def test_images_of_its_own_leave_the_published_figure_open() -> None:
    at = {"delta": -1.5, "low": -2.35, "high": -0.65}
    assert judged(**at) == "differs"
    assert judged(**at, n=50_000, samples=50_000) == "differs"  # on the same images
    assert judged(**at, n=400, samples=50_000) == "differs"
    assert judged(**at, n=25_000, samples=50_000) == "reproduced"  # 1.22 times as wide


def test_a_difference_of_printed_accuracies_counts() -> None:
    assert judged(Published(baseline=81.8, acc=81.3)) == "reproduced"
    assert judged(Published(baseline=81.8, acc=79.0)) == "differs"


def test_a_note_in_the_file_rules_a_verdict_out() -> None:
    quoted = Published(delta=-0.5, not_comparable="a trained method")
    assert judged(quoted) == "not comparable: a trained method"


@pytest.mark.parametrize("macs", [-33.0, -37.0])
def test_two_points_of_macs_are_the_same_work(macs: float) -> None:
    assert judged(macs=macs) == "reproduced"
    assert judged(macs=None) == "reproduced"


def test_other_work_gives_a_verdict_only_where_it_cannot_explain_the_difference() -> None:
    refused = "not comparable: -40.0 % MACs, published -35.0 %"
    assert judged(macs=-40.0) == refused
    assert judged(macs=-40.0, delta=-9, low=-11, high=-7) == refused
    # It saves less and yet loses more; it saves more and yet loses less.
    assert judged(macs=-30.0, delta=-9, low=-11, high=-7) == "differs"
    assert judged(macs=-40.0, delta=0.5, low=0.0, high=1.0) == "differs"
    assert "not comparable" in judged(macs=-30.0, delta=0.5, low=0.0, high=1.0)


def test_a_wide_interval_reproduces_nothing_but_can_still_differ() -> None:
    assert judged(low=-3.0, high=1.0) == "reproduced"
    assert judged(low=-3.1, high=1.0) == "cannot tell: an interval of 4.1 points"
    assert judged(low=-40.0, high=-10.0) == "differs"


def test_an_unpruned_model_far_from_its_published_accuracy() -> None:
    # Of 500 images 95 % of samples have 341 to 380 right where 72.2 % are.
    assert not unlike(76.0, 72.2, 500)
    assert unlike(76.4, 72.2, 500)
    assert unlike(72.8, 72.2, 50_000)
    assert not unlike(72.25, 72.2, 10**9)


def test_few_images_are_not_unlike_a_model_that_is_always_right() -> None:
    assert not unlike(100.0, 99.0, 1)
    assert not unlike(90.0, 100.0, 1)
    assert unlike(90.0, 100.0, 10)
