"""Whether a measured difference agrees with a published one."""

from __future__ import annotations

import math

from asap_eval.experiment import Published

REPRODUCED, DIFFERS = "reproduced", "differs"
NOT_COMPARABLE, NOT_RUN = "not comparable", "not run"

SAME_MACS = 2.0
"""Points of the change of the MACs up to which two rows did the same work. Papers divide GMACs of
one decimal, which moves their percentages by as much."""
TELLING = 10.0
"""Points between the bounds of an interval above which a published value inside says nothing."""


def verdict(
    published: Published, *, delta: float, low: float, high: float, macs: float | None
) -> str:
    """``reproduced``, ``differs``, or ``not comparable`` with its reason.

    Reproduced means that the published difference lies inside the measured one's 95 % interval.
    Where the work is not the same, only a row that loses more although it saves less (or the
    reverse) differs for certain.

    Args:
        published: with a difference to its unpruned model.
        delta, low, high: measured difference and bounds of its interval, in points.
        macs: measured change of the MACs in percent, the method's own products included.
    """
    change = published.change
    assert change is not None
    if published.not_comparable:
        return f"{NOT_COMPARABLE}: {published.not_comparable}"
    inside = low <= change <= high
    if macs is not None and published.macs is not None and abs(macs - published.macs) > SAME_MACS:
        worse_and_dearer = high < change and macs > published.macs
        better_and_cheaper = low > change and macs < published.macs
        if not (worse_and_dearer or better_and_cheaper):
            return f"{NOT_COMPARABLE}: {macs:+.1f} % MACs, published {published.macs:+.1f} %"
    if inside and high - low > TELLING:
        return f"{NOT_COMPARABLE}: an interval of {high - low:.0f} points cannot tell"
    return REPRODUCED if inside else DIFFERS


def word_of(text: object) -> str:
    """A verdict without its mark or reason; "" where a line has none (None, or NaN in a frame)."""
    return text.split(" †")[0].split(":")[0] if isinstance(text, str) else ""


def unlike(measured: float, published: float, n: int) -> bool:
    """Whether two accuracies in percent differ by more than ``n`` drawn images explain (95 %).

    The unpruned model's differ where images, labels or weights are not those of the paper.
    """
    share = published / 100
    return abs(measured - published) > 196 * math.sqrt(share * (1 - share) / n) + 0.05
