"""What is demanded of every method, and the findings of a check; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "failed", "does not apply"]

DEMANDS = {
    "documented": "the card and every option are written down, and the knob has a range, if any",
    "acts": "some setting of the knob changes what the model does",
    "seeds": "one seed gives one answer, whatever other code draws from global generators",
    "keep all": "where every token is kept the model's own output comes out",
    "alone": "an image alone is treated as it is in a batch",
    "order": "the order of a batch does not matter",
    "resume": "batches cut elsewhere, by a new process, give the same rows",
    "trace": "kept tokens are accounted for: slots without gaps, lengths, sizes",
    "prefix": "class, distillation and register tokens stay in front, untouched",
    "MACs": "macs() says what torch's operators do in the method's functions",
    "needs": "everything the method declares to read is read",
    "promoted": "what is read in 16 bits is promoted before anything is computed of it",
    "16 bits": "bfloat16 and float16 run, with finite output",
}
"""Checks by name, in the order in which they run."""


@dataclass(frozen=True)
class Finding:
    """What became of one check.

    Attributes:
        name: of `DEMANDS`. why: the reason of a failure, or why it does not apply, in one sentence;
            of a check that passed, on what.
    """

    name: str
    verdict: Verdict
    why: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict == "failed"

    def __str__(self) -> str:
        return f"{self.name}: {self.verdict}{f', {self.why}' if self.why else ''}"


class ContractError(AssertionError):
    """A method that does not keep what is demanded; the message says where, for its author."""


class DoesNotApplyError(Exception):
    """A check that asks nothing of this method; the message says why."""
