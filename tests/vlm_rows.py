"""Small question files, and rows of answers that a test gives instead of a model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asap_eval.bench.language.answers import Answer
from asap_eval.bench.language.rows import row_of
from asap_eval.data.questions.question_set import Asked, Question, open_questions
from asap_eval.data.questions.tasks import TASKS
from asap_eval.record.journal import Row

Say = Callable[[dict[str, Any]], "str | None"]
"""An answer to a document; None = its picture could not be read."""


@functools.cache
def asked(folder: Path, name: str) -> Asked:
    """All questions of one task."""
    return open_questions([TASKS[name]], str(folder), limit=None, sample="first").asked[0]


def rows_of(questions: Asked, say: Say) -> list[Row]:
    """Rows as the benchmark makes them of these answers."""
    rows = []
    for name, place in zip(questions.ids, questions.places, strict=True):
        document = questions.documents.text(place)
        text = say(dict(document))
        question = Question(name, document, None)
        answer = None if text is None else answer_of(text)
        error = None if answer else f"{name}: no picture"
        rows.append(row_of(questions.judge, question, answer, error))
    return rows


def answer_of(text: str) -> Answer:
    """An answer whose counts do not matter."""
    return Answer(
        text=text,
        new_tokens=1,
        prompt_tokens=20,
        image_tokens=16,
        handed_to_llm=16,
        llm_layer_mean=16.0,
        cached_entries=40,
        unpruned_entries=40,
        kept=[16],
        layer_mean=[16.0],
        fired=[0],
        language_fired=0,
        tower_macs=1.0,
        projector_macs=1.0,
        prefill_macs=1.0,
        decode_macs=0.0,
        method_macs=0.0,
        unpruned_macs=3.0,
        counted={},
    )
