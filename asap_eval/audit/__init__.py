"""The paper against itself: every derived cell recomputed, every figure printed twice compared.

Work comes from our own ledger, figures of others from ``paper/tables/facts.csv``.
"""

from __future__ import annotations

from collections.abc import Callable

from asap_eval.audit import arithmetic, crossings, outside, work
from asap_eval.audit.finding import Check, Finding
from asap_eval.errors import UnsupportedModelError

__all__ = ["RULES", "Check", "Finding", "audit"]

RULES: tuple[Callable[[], Check], ...] = (
    arithmetic.deltas,
    arithmetic.averages,
    arithmetic.relatives,
    arithmetic.anchors,
    work.quotients,
    work.kinetics,
    work.walk,
    work.stages,
    work.late,
    crossings.same_figures,
    crossings.throughputs,
    crossings.timers,
    crossings.twins,
    crossings.text,
    outside.outside,
)


def audit() -> list[Check]:
    """Every rule with what it found; a rule that needs what is not installed says so."""
    checks = []
    for rule in RULES:
        try:
            checks.append(rule())
        except UnsupportedModelError as error:
            checks.append(Check(f"{rule.__name__}: not checked", 0, missing=str(error)))
    return checks
