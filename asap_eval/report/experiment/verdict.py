"""Whether a measured difference agrees with a published one."""

from __future__ import annotations

import math

from asap_eval.experiment import Published
from asap_eval.statistics import share_interval

REPRODUCED, DIFFERS, CANNOT_TELL = "reproduced", "differs", "cannot tell"
NOT_COMPARABLE, NOT_RUN = "not comparable", "not run"
JUDGED = (REPRODUCED, CANNOT_TELL, DIFFERS)
"""Verdicts on rows that were compared, from agreement to its opposite."""

SAME_MACS = 2.0
"""Points of the change of the MACs up to which two rows did the same work. Papers divide GMACs of
one decimal, which moves their percentages by as much."""
TELLING = 4.0
"""Points between the bounds of an interval above which a published value inside says nothing: the
losses in the ASAP paper's Table 1 are 0.12 to 3.55 points, and a wider interval holds them all."""
HUNDREDTH, TENTH = 0.01, 0.1
"""Points by which the difference of two accuracies may miss the unrounded one, where they are
printed with two decimals, with one."""


def verdict(
    published: Published,
    *,
    delta: float,
    low: float,
    high: float,
    macs: float | None,
    n: int | None = None,
    samples: int | None = None,
    rounding: float = HUNDREDTH,
) -> str:
    """``reproduced``, ``differs``, or with its reason ``cannot tell`` or ``not comparable``.

    Reproduced means that the published difference lies inside the measured one's 95 % interval,
    which may miss it by the published rounding and by what its own images leave open, where they
    are others. Where the work is not the same, only a row that loses more although it saves less
    (or the reverse) differs for certain.

    Args:
        published: with a difference to its unpruned model.
        delta, low, high: measured difference and bounds of its interval, in points.
        macs: measured change of the MACs in percent, the method's own products included.
        n, samples: images behind the measured and the published difference; None = not known.
        rounding: of the published difference, `HUNDREDTH` or `TENTH`.
    """
    change = published.change
    assert change is not None
    if published.not_comparable:
        return f"{NOT_COMPARABLE}: {published.not_comparable}"
    wider = math.sqrt(1 + n / samples) if n and samples and n != samples else 1.0
    least = delta - wider * (delta - low) - rounding
    most = delta + wider * (high - delta) + rounding
    inside = least <= change <= most
    if macs is not None and published.macs is not None and abs(macs - published.macs) > SAME_MACS:
        worse_and_dearer = most < change and macs > published.macs
        better_and_cheaper = least > change and macs < published.macs
        if not (worse_and_dearer or better_and_cheaper):
            return f"{NOT_COMPARABLE}: {macs:+.1f} % MACs, published {published.macs:+.1f} %"
    if inside and high - low > TELLING:
        return f"{CANNOT_TELL}: an interval of {high - low:.1f} points"
    return REPRODUCED if inside else DIFFERS


def word_of(text: object) -> str:
    """A verdict without its mark or reason; "" where a line has none (None, or NaN in a frame)."""
    return text.split(" †")[0].split(":")[0] if isinstance(text, str) else ""


def unlike(measured: float, published: float, n: int) -> bool:
    """Whether two accuracies in percent differ by more than ``n`` drawn images explain (95 %).

    The unpruned model's differ where images, labels or weights are not those of the paper.
    """
    low, high = (100 * bound for bound in share_interval(round(measured * n / 100), n))
    return not low - TENTH / 2 <= published <= high + TENTH / 2
