"""Vision-language models on lmms-eval's tasks: answers, scores, tokens and work by part.

A row is one question: ``task question``; ``truth`` in words; ``prediction`` the answer; ``scored``
what the task says of it by metric; ``score`` 0 to 1 and ``correct`` (null where an answer can be
right in part); ``part`` and ``group`` what it is scored with; ``new_tokens prompt_tokens
image_tokens handed_to_llm llm_layer_mean cached_entries unpruned_entries`` as `Answer` says;
``tokens layer_mean fired`` as lists, one value per crop; ``language_fired``; ``parts`` MACs of
tower, projector, prefill and decoding; ``model_macs`` (the first three), ``method_macs`` and
``unpruned_macs``; ``counted`` by name, where the method counts something (`Reducer.tallies`). A
question without a usable picture, or one that the model raises an error on, is wrong and listed.

Of a record: ``tasks`` as `asap_eval.bench.language.scores` says; ``macs`` per question up to the
first logits, because answers differ in length; in ``tokens`` and ``fired`` an image is a crop (of a
method in the language model ``fired`` has the layers). ``analysis``: ``avg`` over the tasks, %;
``avg_baseline rel rel_of_ratios`` beside the unpruned model (`scores.relative`);
``macs_by_part_g`` ``{tower projector prefill decode method unpruned}`` GMACs per question;
``new_tokens_mean prompt_tokens_mean crops_mean image_tokens_mean`` per question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from asap_eval.bench.bench import Summary, register
from asap_eval.bench.language.question_bench import QuestionBench
from asap_eval.bench.language.rows import rows_of, work_summary
from asap_eval.bench.language.scores import average, by_task, difference, relative, task_block
from asap_eval.data.questions.lmms import totals_of
from asap_eval.data.questions.question_set import QuestionBatch
from asap_eval.data.questions.tasks import TASKS, chosen
from asap_eval.hosts import LlavaGeometry, install, llava_geometry
from asap_eval.method import Reducer
from asap_eval.models import LoadedVlm
from asap_eval.record import Baseline, RunRecord
from asap_eval.record.journal import Row, Rows
from asap_eval.work.rows import readable


@register(
    "vlm",
    "Vision-language models: the paper's seven tasks and four that ask for text, by lmms-eval.",
)
@dataclass
class VisionLanguage(QuestionBench):
    """Scores of tasks, their average, and work; paired with the unpruned model task by task."""

    strict = True
    no_speed = "its answers differ in length; its work is in the record"

    def evaluate(
        self, loaded: LoadedVlm, reducer: Reducer, batches: Iterable[QuestionBatch], *, seed: int
    ) -> Generator[list[Row], None, None]:
        geometry = llava_geometry(loaded.model)
        with install(loaded.model, reducer, seed=seed, newline=self.newline) as trace:
            for batch in batches:
                yield rows_of(loaded, trace, geometry, batch)

    def summarise(self, rows: Rows, geometry: LlavaGeometry, convention: str) -> Summary:
        """What the rows of all questions say together.

        Raises:
            DataError: not one question could be answered.
        """
        read = readable(rows, "questions", "answered")
        answered = by_task(rows, chosen(self.tasks))
        tasks = {name: task_block(totals_of(a.task), a) for name, a in answered.items()}
        work = work_summary(read, geometry, convention)
        analysis = {"avg": average(tasks), **(work.analysis or {})}
        return dataclasses.replace(work, tasks=tasks, analysis=analysis)

    def compare(
        self,
        record: RunRecord,
        unpruned: RunRecord,
        rows: Rows,
        before: Rows,
    ) -> None:
        """Differences into every task's block; Rel into ``analysis``."""
        assert record.tasks is not None
        assert unpruned.tasks is not None
        assert record.analysis is not None
        tasks = [TASKS[name] for name in record.tasks]
        own, old = by_task(rows, tasks), by_task(before, tasks)
        failed = sum(answered.failed for answered in old.values())
        record.baseline = Baseline(unpruned.key, None, None, len(before), failed)
        for name, block in record.tasks.items():
            block |= difference(block, unpruned.tasks[name], own[name], old[name])
        record.analysis |= relative(record.tasks, unpruned.tasks)
