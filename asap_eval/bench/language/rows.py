"""Questions of a batch as rows: asked, answered, scored; what goes wrong is found out here.

A row is as `asap_eval.bench.language.vlm` describes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from asap_eval.bench.language.answers import Answer, answers
from asap_eval.bench.language.asked import Ready, everybodys, first_line, ready_of, unfit
from asap_eval.data.questions.lmms import Judge
from asap_eval.data.questions.question_set import Question, QuestionBatch
from asap_eval.data.questions.tasks import truth
from asap_eval.errors import DataError
from asap_eval.hosts import LlavaGeometry
from asap_eval.models import LoadedVlm
from asap_eval.record.journal import Row
from asap_eval.trace import Trace

COUNTS = ("new_tokens", "prompt_tokens", "image_tokens", "handed_to_llm", "llm_layer_mean")
LISTS = ("tokens", "layer_mean", "fired")
PARTS = ("tower", "projector", "prefill", "decode")
"""Fields of a row: numbers, lists of one value per crop, and whose MACs ``parts`` are."""


def rows_of(
    loaded: LoadedVlm, trace: Trace, geometry: LlavaGeometry, batch: QuestionBatch
) -> list[Row]:
    """Rows of all questions of a batch; those without a usable picture are not asked."""
    judge = batch.judge
    errors: dict[str, str] = {}
    asked: list[Ready] = []
    for question in batch.questions:
        try:
            asked.append(ready_of(judge, question))
        except DataError as error:
            errors[question.id] = str(error)

    def answered(ready: Sequence[Ready]) -> dict[str, Answer]:
        if not ready:
            return {}
        pictures, prompts, ids = ([getattr(one, name) for one in ready] for name in Ready._fields)
        made = answers(
            loaded, trace, geometry, pictures, prompts, ids, max_new_tokens=batch.new_tokens
        )
        return dict(zip(ids, made, strict=True))

    try:
        found = answered(asked)
    except Exception as error:
        if everybodys(error):
            raise
        # What fails alone, too, is that sample's failure; what fails only together is a bug.
        failed = {one.id: why for one in asked if (why := _failure(loaded, one, answered))}
        if not failed:
            raise
        errors |= failed
        found = answered([one for one in asked if one.id not in failed])
    return [row_of(judge, q, found.get(q.id), errors.get(q.id)) for q in batch.questions]


def _failure(
    loaded: LoadedVlm, one: Ready, answered: Callable[[Sequence[Ready]], Mapping[str, Answer]]
) -> str | None:
    """Why a question asked by itself has no answer; None where it has one."""
    if why := unfit(loaded, one):
        return why
    try:
        answered([one])
    except Exception as error:
        if everybodys(error):
            raise
        return f"the model fails on it: {type(error).__name__}: {first_line(error)}"
    return None


def row_of(judge: Judge, question: Question, answer: Answer | None, error: str | None) -> Row:
    """A question scored: its answer, or why it has none."""
    task, document = judge.task, question.document
    said = None if answer is None else judge.cut(answer.text)
    scored = judge.wrong(document) if said is None else judge.scored(document, said)
    share = 0.0 if said is None else judge.share(scored)
    group = None if task.group is None else task.group(document)
    return {
        "id": question.id,
        "task": task.name,
        "question": str(document["question"]),
        "truth": truth(document),
        "part": None if task.part is None else task.part(document),
        "group": None if group is None else str(group),
        "prediction": said,
        "score": share,
        "correct": None if task.soft else share == 1,
        "scored": scored,
        **(UNANSWERED if answer is None else measured(answer)),
        "error": None if error is None else f"{question.id}: {error}",
    }


def measured(answer: Answer) -> Row:
    """Counts and work of an answer."""
    model = answer.tower_macs + answer.projector_macs + answer.prefill_macs
    return {
        **{name: getattr(answer, name) for name in COUNTS},
        "tokens": answer.kept,
        "layer_mean": answer.layer_mean,
        "fired": answer.fired,
        "language_fired": answer.language_fired,
        "parts": [getattr(answer, f"{name}_macs") for name in PARTS],
        "model_macs": model,
        "method_macs": answer.method_macs,
        "unpruned_macs": answer.unpruned_macs,
    }


UNANSWERED: Row = dict.fromkeys(
    (
        *(*COUNTS, *LISTS, "language_fired", "parts"),
        *("model_macs", "method_macs", "unpruned_macs"),
    )
)
