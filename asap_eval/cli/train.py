"""``asap-eval train``: fit the predictors of a method on a frozen backbone.

The method is dynamicvit or spot. The teacher is the same model unpruned, so labels are not used.

  asap-eval train method=dynamicvit model=deit_tiny data=<folder> out=<file>.safetensors keep=0.7
  asap-eval method=dynamicvit model=deit_tiny data=<other images> method.checkpoint=<file> k=0.7

Do not evaluate on images it was trained on. The same command goes on after an interruption.
`asap-eval ls --options` lists the options of the method.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from asap_eval.cli.guard import USAGE
from asap_eval.cli.words import command, help_of
from asap_eval.record import Job
from asap_eval.runner.machine_errors import explaining
from asap_eval.train.predictors.job import TrainJob
from asap_eval.train.predictors.loop import train


def main(argv: Sequence[str]) -> int:
    """Run a command line; standard output gets the path of the file, the rest standard error."""
    if not argv:
        print(help_of(TrainJob, "train", str(__doc__)))
        return USAGE

    def trained(job: TrainJob) -> None:
        machine = Job(job.model, batch_size=max(1, job.batch_size), device=job.device)
        with explaining(machine):
            print(train(job, shlex.join(["asap-eval", "train", *argv])))

    return command(argv, TrainJob, "train", str(__doc__), trained)
