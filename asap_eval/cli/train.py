"""``asap-eval train``: fit the trained parts of a method on a frozen backbone.

The method is one that has some: predictors (dynamicvit, spot, sparsifiner), selectors
(tosa_reading), thresholds (asvit) or counts (diffrate). The teacher is the same model unpruned, so
labels are not used. Keys that a training does not read are refused.

  asap-eval train method=dynamicvit model=deit_tiny data=<folder> out=<file>.safetensors keep=0.7
  asap-eval method=dynamicvit model=deit_tiny data=<other images> method.checkpoint=<file> k=0.7
  asap-eval train method=asvit how=quantiles model=deit_tiny data=<folder> out=<file>.safetensors

Do not evaluate on images it was trained on. The same command goes on after an interruption.
`asap-eval ls --options` lists the options of the method.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from asap_eval.cli.guard import USAGE
from asap_eval.cli.machine import AUTO, device_of, workers_for
from asap_eval.cli.words import command, help_of
from asap_eval.method import methods
from asap_eval.plugins import load
from asap_eval.record import Job
from asap_eval.runner.machine_errors import explaining
from asap_eval.train.fits import FITS
from asap_eval.train.fits.fit import Fit
from asap_eval.train.method.job import TrainJob
from asap_eval.train.method.loop import train


@dataclass
class Asked(TrainJob):
    """A training as it is typed, before the machine decides what is ``auto``."""

    device: str = AUTO  # auto = a GPU where there is one | cpu | gpu, cuda, 0 | 1, cuda:1 ...
    workers: int | Literal["auto"] = "auto"  # processes that load images
    plugins: list[str] = field(default_factory=list)  # files or packages of methods

    def job(self) -> TrainJob:
        """The training on this machine; methods of others are known from here on."""
        load(self.plugins)
        job = TrainJob(**{key.name: getattr(self, key.name) for key in fields(TrainJob)})
        job.device = device_of(self.device)
        job.workers = workers_for(job.device) if self.workers == AUTO else self.workers
        return job


def main(argv: Sequence[str]) -> int:
    """Run a command line; standard output gets the path of the file, the rest standard error."""
    if not argv:
        print(help_of(Asked, "train", _about()))
        return USAGE

    def trained(asked: Asked) -> None:
        job = asked.job()
        job.check()
        machine = Job(job.model, batch_size=job.recipe["batch_size"], device=job.device)
        with explaining(machine):
            print(train(job, shlex.join(["asap-eval", "train", *argv])))

    return command(argv, Asked, "train", _about(), trained)


def _about() -> str:
    """What the command does, and the keys that each training reads."""
    lines = []
    for fit in FITS:
        names = [name for name, cls in methods().items() if issubclass(cls, fit.of)]
        how = "" if fit.how == Fit.how else f" how={fit.how}"
        lines.append(f"  method={'|'.join(names)}{how}")
        lines.append("    " + " ".join(f"{key}={value:g}" for key, value in fit.recipe.items()))
    return "\n".join([str(__doc__).rstrip(), "", "Keys with their defaults:", "", *lines])
