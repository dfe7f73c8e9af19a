"""Random predictors for methods that run from trained ones only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from asap_eval.files.tensors import save_tensors
from asap_eval.method import Batch, View
from asap_eval.methods.parts.learned import Learned, Stages
from asap_eval.methods.parts.predictors import FORMAT, Predictor, numbered
from asap_eval.testing.operators import like
from asap_eval.testing.subject import Subject
from asap_eval.tokens import Reduction


def write_untrained(method: Learned, subject: Subject, path: Path) -> None:
    """A checkpoint of random predictors, in the shapes that the method reads in this model.

    Args:
        method: with the options to run with, its checkpoint left out.
    """
    made: dict[int, Predictor] = {}
    generator = torch.Generator().manual_seed(0)

    def check(self: Learned, batch: Batch) -> None:
        self.check_options(batch)

    def begin(self: Learned, batch: Batch) -> Stages:
        return self.stages(batch, {})

    def decide(self: Learned, view: View, state: Stages) -> Reduction | None:
        place = self.place(view.block)
        if (inputs := self.inputs(view, state)) is not None:
            made[place] = self.untrained(inputs)
            for value in made[place].parameters():
                value.data = torch.randn(value.shape, generator=generator)
        return None

    def macs(self: Learned, view: View, state: Stages) -> int:
        return 0

    members: dict[str, Any] = {"check": check, "begin": begin, "decide": decide, "macs": macs}
    subject.seen(like(method, **members))
    notes = {"format": FORMAT, "training": "none: random, to try the plumbing"}
    save_tensors(numbered(made), path, notes)
