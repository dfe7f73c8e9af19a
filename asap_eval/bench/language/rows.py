"""Rows of questions, scored and counted, and what the rows say together of tokens and work.

A row is as `asap_eval.bench.language.vlm` describes it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from asap_eval.bench.bench import Summary
from asap_eval.bench.language.answers import Answer, answers
from asap_eval.bench.language.asked import Ready, ask, raised, refused
from asap_eval.data.questions.lmms import Judge
from asap_eval.data.questions.question_set import Question, QuestionBatch
from asap_eval.data.questions.tasks import truth
from asap_eval.errors import message
from asap_eval.hosts import LlavaGeometry
from asap_eval.models import LoadedVlm
from asap_eval.record import Macs
from asap_eval.record.journal import Row, Rows
from asap_eval.trace import Trace
from asap_eval.work.rows import SLOTS, Columns, columns, fired_block, tokens_block

COUNTS = (
    *("new_tokens", "prompt_tokens", "image_tokens", "handed_to_llm", "llm_layer_mean"),
    *("cached_entries", "unpruned_entries"),
)
LISTS = tuple(SLOTS)
MACS = ("model_macs", "method_macs", "unpruned_macs")
PARTS = ("tower", "projector", "prefill", "decode")
"""Fields of a row: counts, lists of one value per crop, work, and whose MACs ``parts`` are."""


def rows_of(
    loaded: LoadedVlm, trace: Trace, geometry: LlavaGeometry, batch: QuestionBatch
) -> list[Row]:
    """Rows of all questions of a batch; those without a usable picture are not asked."""

    def answered(ready: Sequence[Ready]) -> dict[str, Answer]:
        if not ready:
            return {}
        pictures, prompts, ids = ([getattr(one, name) for one in ready] for name in Ready._fields)
        made = answers(
            loaded, trace, geometry, pictures, prompts, ids, max_new_tokens=batch.new_tokens
        )
        return dict(zip(ids, made, strict=True))

    def failure(one: Ready) -> str | None:
        if why := refused(loaded, one):
            return why
        error = raised(lambda: answered([one]))
        if error is None:
            return None
        return f"the model fails on it: {type(error).__name__}: {message(error)}"

    asked = ask(batch, answered, failure)
    return [
        row_of(batch.judge, question, asked.result.get(question.id), asked.error(question))
        for question in batch.questions
    ]


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
        "error": error,
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
        **({"counted": answer.counted} if answer.counted else {}),
    }


UNANSWERED: Row = dict.fromkeys(
    (*COUNTS, *LISTS, "language_fired", "parts", *MACS),
)


def work_summary(read: Rows, geometry: LlavaGeometry, convention: str) -> Summary:
    """What the rows of answered questions say of tokens and work."""
    numbers = dict.fromkeys((*COUNTS, *MACS, "parts"), "d")
    work = columns(read, {**numbers, **SLOTS, "language_fired": "q"})
    mean = {name: statistics.fmean(work[name]) for name in (*COUNTS, *MACS)}
    tokens = tokens_block(work)
    tokens.handed_to_llm = mean["handed_to_llm"]
    tokens.llm_layer_mean = mean["llm_layer_mean"]
    tokens.cached_entries = mean["cached_entries"]
    tokens.cached_pct = 100 * tokens.cached_entries / mean["unpruned_entries"]
    if any(work["language_fired"]):
        fired = fired_block(work["language_fired"], len(geometry.language.blocks))
    else:
        fired = fired_block(work["fired"], geometry.tower.depth)
    return Summary(
        macs=_macs(mean, convention),
        tokens=tokens,
        fired=fired,
        analysis={
            "macs_by_part_g": _by_part(work, mean),
            **{f"{name}_mean": mean[name] for name in COUNTS[:3]},
            "crops_mean": len(work["fired"]) / len(read),
        },
    )


def _macs(mean: Mapping[str, float], convention: str) -> Macs:
    """Means over the questions, up to the first logits."""
    own, method, whole = (mean[name] for name in MACS)
    return Macs(
        baseline_g=whole / 1e9,
        mean_g=own / 1e9,
        method_g=method / 1e9,
        reduction_pct=100 * ((own + method) / whole - 1),
        reduction_model_pct=100 * (own / whole - 1),
        convention=convention,
    )


def _by_part(work: Columns, mean: Mapping[str, float]) -> dict[str, float]:
    found = {
        name: statistics.fmean(work["parts"][at :: len(PARTS)]) for at, name in enumerate(PARTS)
    }
    found |= {"method": mean["method_macs"], "unpruned": mean["unpruned_macs"]}
    return {name: value / 1e9 for name, value in found.items()}
