"""Running a job: open what it needs, reuse or resume, measure, and write its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asap_eval.runner.earlier_records import finished
    from asap_eval.runner.run_job import Outcome, run

__all__ = ["Outcome", "finished", "run"]


def __getattr__(name: str) -> Any:
    """What runs jobs brings torch; who reads what lies on the disk needs none of it."""
    if name == "finished":
        from asap_eval.runner.earlier_records import finished

        return finished
    if name in ("Outcome", "run"):
        from asap_eval.runner import run_job

        return getattr(run_job, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
