"""Asks a model the questions of a batch: together, without those that fail by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from asap_eval.data.questions.asker import Asker
from asap_eval.data.questions.question_set import Question, QuestionBatch
from asap_eval.errors import AsapEvalError, DataError, message
from asap_eval.models import LoadedVlm
from asap_eval.timing.memory import out_of_memory

T = TypeVar("T")


class Ready(NamedTuple):
    """A question as the model is asked it."""

    picture: Any
    prompt: str
    id: str


def ready_of(judge: Asker, question: Question) -> Ready:
    """Raises `DataError` where there is no usable picture."""
    if question.picture is None:
        raise DataError(str(question.error))
    picture = judge.picture(question.document, question.picture)
    return Ready(picture, judge.prompt(question.document), question.id)


@dataclass(frozen=True)
class AskedBatch(Generic[T]):
    """A batch that was asked.

    Attributes:
        batch: as it was read. ready: questions that were asked, in order. result: what came of
            them together. errors: why each of the others was not asked, by id.
    """

    batch: QuestionBatch
    ready: list[Ready]
    result: T
    errors: dict[str, str]

    def error(self, question: Question) -> str | None:
        """What the row of a question says of it; None where it was asked."""
        why = self.errors.get(question.id)
        return None if why is None else f"{question.id}: {why}"


def ask(
    batch: QuestionBatch,
    together: Callable[[Sequence[Ready]], T],
    alone: Callable[[Ready], str | None],
) -> AskedBatch[T]:
    """Ask the questions of a batch at once; those that fail by themselves are left out.

    What `together` raises is raised again where no question fails alone: then it is a bug.

    Args:
        together: asks some of the questions, maybe none. alone: asks one by itself, and says why
            that fails; None where it does not.
    """
    ready: list[Ready] = []
    errors: dict[str, str] = {}
    for question in batch.questions:
        try:
            ready.append(ready_of(batch.judge, question))
        except DataError as error:
            errors[question.id] = str(error)
    try:
        return AskedBatch(batch, ready, together(ready), errors)
    except Exception as error:
        if hits_every_sample(error):
            raise
        failed = {one.id: why for one in ready if (why := alone(one))}
        if not failed:
            raise
        rest = [one for one in ready if one.id not in failed]
        return AskedBatch(batch, rest, together(rest), errors | failed)


def inputs_of(loaded: LoadedVlm, ready: Sequence[Ready]) -> dict[str, Any] | None:
    """Keywords of the model's `generate`; None where no question is asked."""
    if not ready:
        return None
    return loaded.inputs([one.picture for one in ready], [one.prompt for one in ready])


def refused(loaded: LoadedVlm, one: Ready) -> str | None:
    """Why the processor refuses a picture; None where it does not."""
    error = raised(lambda: loaded.inputs([one.picture], [one.prompt]))
    return None if error is None else f"the processor refuses its picture: {message(error)}"


def raised(act: Callable[[], object]) -> Exception | None:
    """What `act` raises of one sample; an error that hits every sample is raised again."""
    try:
        act()
    except Exception as error:  # image processors and models raise many kinds
        if hits_every_sample(error):
            raise
        return error
    return None


def hits_every_sample(error: Exception) -> bool:
    """Whether an error says nothing of a sample: full memory, a broken device, a bad setting."""
    return out_of_memory(error) or isinstance(error, (torch.AcceleratorError, AsapEvalError))
