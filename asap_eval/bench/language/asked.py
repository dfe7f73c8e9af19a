"""A batch of questions made ready for the model, apart from answering them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from asap_eval.data.questions.lmms import Judge
from asap_eval.data.questions.question_set import Question, QuestionBatch
from asap_eval.errors import AsapEvalError, DataError
from asap_eval.hosts import install
from asap_eval.method import Reducer
from asap_eval.models import LoadedVlm
from asap_eval.packing import Newline
from asap_eval.timing.memory import out_of_memory
from asap_eval.trace import Trace


def everybodys(error: Exception) -> bool:
    """Whether an error says nothing of a sample: full memory, a broken device, a bad setting."""
    return out_of_memory(error) or isinstance(error, (torch.AcceleratorError, AsapEvalError))


class Ready(NamedTuple):
    """A question as the model is asked it."""

    picture: Any
    prompt: str
    id: str


def ready_of(judge: Judge, question: Question) -> Ready:
    """Raises `DataError` where there is no usable picture."""
    if question.picture is None:
        raise DataError(str(question.error))
    picture = judge.picture(question.document, question.picture)
    return Ready(picture, judge.prompt(question.document), question.id)


def unfit(loaded: LoadedVlm, one: Ready) -> str | None:
    """Why the processor refuses a picture; None where it does not."""
    try:
        loaded.inputs([one.picture], [one.prompt])
    except Exception as error:  # image processors raise many kinds
        if everybodys(error):
            raise
        return f"the processor refuses its picture: {first_line(error)}"
    return None


def first_line(error: Exception) -> str:
    """What an error says, without what follows its first line."""
    return str(error).strip().split("\n")[0] or type(error).__name__


@dataclass(frozen=True)
class Asked:
    """A batch on the device.

    Attributes:
        batch: as it was read. ready: questions that are asked; errors: why the others are not, by
            id. given: keywords of `generate`, None where no question is asked.
    """

    batch: QuestionBatch
    ready: list[Ready]
    errors: dict[str, str]
    given: Any

    @property
    def new_tokens(self) -> int:
        return self.batch.new_tokens


def asked_of(loaded: LoadedVlm, batch: QuestionBatch) -> Asked:
    """Read and process a batch; pictures that cannot be shown are left out."""
    ready, errors = [], {}
    for question in batch.questions:
        try:
            ready.append(ready_of(batch.judge, question))
        except DataError as error:
            errors[question.id] = str(error)
    try:
        given = _inputs(loaded, ready)
    except Exception as error:
        if everybodys(error):
            raise
        # A picture the processor refuses is that sample's failure; any other error is everybody's.
        refused = {one.id: why for one in ready if (why := unfit(loaded, one))}
        if not refused:
            raise
        errors |= refused
        ready = [one for one in ready if one.id not in refused]
        given = _inputs(loaded, ready)
    return Asked(batch, ready, errors, given)


def _inputs(loaded: LoadedVlm, ready: Sequence[Ready]) -> dict[str, Any] | None:
    if not ready:
        return None
    return loaded.inputs([one.picture for one in ready], [one.prompt for one in ready])


class Named(AbstractContextManager[Trace]):
    """A method in the model for one call, its samples named; entering it is not timed."""

    def __init__(
        self, loaded: LoadedVlm, reducer: Reducer, ids: Sequence[str], seed: int, newline: Newline
    ) -> None:
        self._seam = install(loaded.model, reducer, seed=seed, newline=newline)
        self._ids = ids

    def __enter__(self) -> Trace:
        trace = self._seam.__enter__()
        trace.name_images(self._ids)
        return trace

    def __exit__(self, *exc: Any) -> None:
        self._seam.__exit__(*exc)
