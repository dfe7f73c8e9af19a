"""Job -> RunRecord: prepare, reuse or resume, install, measure, write."""

from asap_eval.runner.earlier_records import finished
from asap_eval.runner.measure import Outcome, run

__all__ = ["Outcome", "finished", "run"]
