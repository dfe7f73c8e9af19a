"""Job -> RunRecord: prepare, reuse or resume, install, measure, write."""

from asap_eval.runner.measure import Outcome, finished, run

__all__ = ["Outcome", "finished", "run"]
