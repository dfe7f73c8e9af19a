"""Running a job: open what it needs, reuse or resume, measure, and write its record."""

from asap_eval.runner.earlier_records import finished
from asap_eval.runner.run_job import Outcome, run

__all__ = ["Outcome", "finished", "run"]
