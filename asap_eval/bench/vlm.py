"""Vision-language models on lmms-eval's tasks: answers, scores, tokens and work by part.

A row is one question: ``task question``; ``truth`` in words; ``prediction`` the answer; ``scored``
what the task says of it by metric; ``score`` 0 to 1 and ``correct`` (null where an answer can be
right in part); ``part`` and ``group`` what it is scored with; ``new_tokens prompt_tokens
image_tokens handed_to_llm llm_layer_mean``; ``tokens layer_mean fired`` as lists, one value per
crop; ``language_fired``; ``parts`` MACs of tower, projector, prefill and decoding; ``model_macs``
(the first three), ``method_macs`` and ``unpruned_macs``. A question without a usable picture, or
one that the model raises an error on, is wrong and listed.

Of a record: ``tasks`` as `asap_eval.bench.vlm_scores` says; ``macs`` per question up to the first
logits, because answers differ in length; in ``tokens`` and ``fired`` an image is a crop (of a
method in the language model ``fired`` has the layers). ``analysis``: ``avg`` over the tasks, %;
``avg_baseline rel rel_of_ratios`` beside the unpruned model (`vlm_scores.relative`);
``macs_by_part_g`` ``{tower projector prefill decode method unpruned}`` GMACs per question;
``new_tokens_mean prompt_tokens_mean crops_mean image_tokens_mean`` per question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from asap_eval.bench.bench import Bench, Summary, register
from asap_eval.bench.outlook import Outlook
from asap_eval.bench.vlm_macs import unpruned_prefill
from asap_eval.bench.vlm_outlook import CROPS, outlook_of
from asap_eval.bench.vlm_rows import rows_of
from asap_eval.bench.vlm_scores import average, difference, relative, task_block
from asap_eval.bench.vlm_work import work_of
from asap_eval.errors import BadValueError, DataError
from asap_eval.hosts import Geometry, LlavaGeometry, install, llava_geometry
from asap_eval.journal import Row
from asap_eval.method import Reducer
from asap_eval.models import LoadedVlm, ModelSpec
from asap_eval.packing import Newline
from asap_eval.record import Baseline, Job, RunRecord
from asap_eval.vlm.documents import HUB
from asap_eval.vlm.lmms import totals_of
from asap_eval.vlm.questions import (
    QuestionBatch,
    QuestionSet,
    Sample,
    open_questions,
    question_batches,
)
from asap_eval.vlm.tasks import TASKS, Task, chosen


@register(
    "vlm",
    "Vision-language models: GQA, MME, POPE, ScienceQA, VizWiz, VQAv2 and MMBench by lmms-eval.",
)
@dataclass
class VisionLanguage(Bench[QuestionSet, QuestionBatch]):
    """Scores of tasks, their average, and work; paired with the unpruned model task by task.

    Attributes:
        tasks: names of `asap_eval.vlm.tasks.TASKS`. new_tokens: bound of every answer, None = each
            task's own. newline: of LLaVA-NeXT, see `packing.Newline`.
    """

    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    new_tokens: int | None = None
    newline: Newline = "kept"

    vlm = True
    own_data = HUB
    strict = True
    budgets = {}  # noqa: RUF012 - it meets every kind
    no_speed = "its answers differ in length; its work is in the record"

    def __post_init__(self) -> None:
        chosen(self.tasks)
        if self.new_tokens is not None and self.new_tokens < 1:
            raise BadValueError(f"bench.new_tokens={self.new_tokens}: give a number >= 1.")

    def geometry(self, loaded: LoadedVlm) -> LlavaGeometry:
        return llava_geometry(loaded.model)

    def check_convention(self, loaded: LoadedVlm, name: str) -> None:
        if name != "full":
            raise BadValueError(
                f"macs_convention={name} is how the paper counts classifiers; it says nothing of "
                f"language models. Use macs_convention=full with bench={self.name}."
            )

    def seen(self, geometry: LlavaGeometry, method: type[Reducer]) -> Geometry:
        """The tower, or the language model with the image tokens of one crop as its row."""
        if method.tower == "vision":
            return geometry.tower
        return dataclasses.replace(
            geometry.tower,
            family="language model",
            blocks=geometry.language.blocks,
            width=geometry.language.width,
            prefix=0,
            grid=(1, geometry.tower.patches),
            has_cls=False,
        )

    def open(
        self, data: str, loaded: LoadedVlm, *, limit: int | None, sample: Sample
    ) -> QuestionSet:
        """``limit`` questions of each task, whole groups; see `open_questions`."""
        return open_questions(
            chosen(self.tasks), data, limit=limit, sample=sample, new_tokens=self.new_tokens
        )

    def planned(self, loaded: LoadedVlm, geometry: LlavaGeometry, samples: QuestionSet) -> str:
        """From one question of each task: text and pictures are much alike within one."""
        whole, lost = 0.0, 0
        for asked in samples.asked:
            first = next(question_batches(dataclasses.replace(samples, asked=[asked]), 1))
            question = first.questions[0]
            if question.picture is None:
                lost += len(asked.places)
                continue
            given = loaded.inputs([question.picture], [asked.judge.prompt(question.document)])
            ids, crops = given["input_ids"], len(given["pixel_values"][0])
            tokens = int((ids == loaded.model.config.image_token_id).sum())
            crops = crops if given["pixel_values"].dim() == 5 else 1
            work = unpruned_prefill(geometry, tokens, ids.shape[1] - tokens, crops).total
            whole += float(work) / 1e9 * len(asked.places)
        counted = max(len(samples) - lost, 1)
        return (
            f"about {whole / counted:.3f} GMACs per question unpruned up to the first logits, "
            f"{whole:.0f} GMACs in all"
        )

    def outlook(self, job: Job, spec: ModelSpec, reducer: Reducer) -> Outlook:
        if not spec.vlm:
            return Outlook()  # opening it says what is wrong
        return outlook_of(job, spec, reducer, self.asked, self.newline != "none")

    @property
    def asked(self) -> list[Task]:
        """Tasks whose questions are asked."""
        return chosen(self.tasks)

    def ends(self, samples: QuestionSet, batch_size: int) -> Sequence[int]:
        return samples.ends(batch_size)

    def batches(
        self,
        loaded: LoadedVlm,
        samples: QuestionSet,
        *,
        batch_size: int,
        workers: int = 0,
        start: int = 0,
    ) -> Iterator[QuestionBatch]:
        return question_batches(samples, batch_size, workers, start)

    def evaluate(
        self, loaded: LoadedVlm, reducer: Reducer, batches: Iterable[QuestionBatch], *, seed: int
    ) -> Generator[list[Row], None, None]:
        geometry = llava_geometry(loaded.model)
        with install(loaded.model, reducer, seed=seed, newline=self.newline) as trace:
            for batch in batches:
                yield rows_of(loaded, trace, geometry, batch)

    def spent(self, kind: str, rows: Sequence[Row], geometry: Any, convention: str) -> list[float]:
        """``tokens`` of a LLaVA-NeXT picture count as if it had five crops, as published budgets
        do; ``macs`` up to the first logits."""
        read = [row for row in rows if row["error"] is None]
        if kind == "macs":
            return [
                100 * ((row["model_macs"] + row["method_macs"]) / row["unpruned_macs"] - 1)
                for row in read
            ]
        crops = [len(row["tokens"]) for row in read]
        return [
            row["handed_to_llm"] * (CROPS / count if count > 1 else 1.0)
            for row, count in zip(read, crops, strict=True)
        ]

    def summarise(self, rows: Sequence[Row], geometry: LlavaGeometry, convention: str) -> Summary:
        """What the rows of all questions say together.

        Raises:
            DataError: not one question could be answered.
        """
        read = [row for row in rows if row["error"] is None]
        if not read:
            raise DataError(
                f"None of the {len(rows)} questions could be answered; the first says: "
                f"{rows[0]['error']}"
            )
        tasks, work = self._tasks(rows), work_of(read, geometry, convention)
        analysis = {"avg": average(tasks), **(work.analysis or {})}
        return dataclasses.replace(work, tasks=tasks, analysis=analysis)

    def _tasks(self, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
        blocks = {}
        for task in chosen(self.tasks):
            own = [row for row in rows if row["task"] == task.name]
            blocks[task.name] = task_block(totals_of(task), own)
        return blocks

    def compare(
        self,
        record: RunRecord,
        unpruned: RunRecord,
        rows: Sequence[Row],
        before: Sequence[Row],
    ) -> None:
        """Differences into every task's block; Rel into ``analysis``."""
        assert record.tasks is not None
        assert unpruned.tasks is not None
        assert record.analysis is not None
        failed = sum(row["error"] is not None for row in before)
        record.baseline = Baseline(unpruned.key, None, None, len(before), failed)
        for name, block in record.tasks.items():
            own, old = ([row for row in r if row["task"] == name] for r in (rows, before))
            block |= difference(TASKS[name], block, unpruned.tasks[name], own, old)
        record.analysis |= relative(record.tasks, unpruned.tasks)
