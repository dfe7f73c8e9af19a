"""What the benchmarks of vision-language models share: questions, tokens and work of a sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from asap_eval.bench.bench import Bench
from asap_eval.bench.language.plan import CROPS, most_crops, plan_of
from asap_eval.bench.plan import Plan
from asap_eval.data.questions.documents import HUB, look
from asap_eval.data.questions.question_set import (
    QuestionBatch,
    QuestionSet,
    open_questions,
    question_batches,
)
from asap_eval.data.questions.tasks import PAPER, Task, chosen
from asap_eval.data.subset import Sample
from asap_eval.errors import BadValueError, UnreachableError
from asap_eval.hosts import Geometry, LlavaGeometry, llava_geometry
from asap_eval.method import Reducer
from asap_eval.models import LoadedVlm, ModelSpec
from asap_eval.packing import Newline
from asap_eval.record import Budget, Job, Quantity
from asap_eval.record.journal import Row, Rows
from asap_eval.work.language import unpruned_prefill


@dataclass
class QuestionBench(Bench[LoadedVlm, LlavaGeometry, QuestionSet, QuestionBatch]):
    """Base of what asks questions about pictures; it opens, batches and budgets them.

    Attributes:
        tasks: names of `asap_eval.data.questions.tasks.TASKS`. new_tokens: bound of every answer,
            None = each task's own. newline: of LLaVA-NeXT, see `packing.Newline`.
    """

    tasks: list[str] = field(default_factory=lambda: list(PAPER))
    new_tokens: int | None = None
    newline: Newline = "kept"

    vlm = True
    own_data = HUB

    def __post_init__(self) -> None:
        chosen(self.tasks)
        if self.new_tokens is not None and self.new_tokens < 1:
            raise BadValueError(f"bench.new_tokens={self.new_tokens}: give a number >= 1.")

    def geometry(self, loaded: LoadedVlm) -> LlavaGeometry:
        return llava_geometry(loaded.model)

    def check(self, loaded: LoadedVlm) -> None:
        loaded.check_prompts()

    def check_convention(self, loaded: LoadedVlm, name: str) -> None:
        if name != "full":
            raise BadValueError(
                f"macs_convention={name} is how the paper counts classifiers; it says nothing of "
                f"language models. Use macs_convention=full with bench={self.name}."
            )

    def acts_in(self, geometry: LlavaGeometry, method: type[Reducer]) -> Geometry:
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

    def look(self, data: str, labels: str | None) -> None:
        for task in self.asked:
            look(task, data)

    def open(
        self, data: str, loaded: LoadedVlm, *, limit: int | None, sample: Sample
    ) -> QuestionSet:
        """``limit`` questions of each task, whole groups; see `open_questions`."""
        return open_questions(
            chosen(self.tasks), data, limit=limit, sample=sample, new_tokens=self.new_tokens
        )

    def unpruned_work(
        self, loaded: LoadedVlm, geometry: LlavaGeometry, samples: QuestionSet
    ) -> str:
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

    def check_budget(self, budget: Budget, spec: ModelSpec, method: type[Reducer]) -> None:
        """A method in the tower leaves at least one token of every crop."""
        crops = most_crops(spec)
        if budget.kind == "tokens" and method.tower == "vision" and budget.target < crops:
            has = f"up to {crops} crops" if crops > 1 else "one crop"
            raise UnreachableError(
                f"budget=tokens target={budget.target:g}: a sample of {spec.name} has {has}, and "
                f"'{method.name}' leaves at least one token of each. Give target={crops} or more."
            )

    def plan(self, job: Job, spec: ModelSpec, reducer: Reducer) -> Plan:
        if not spec.vlm:
            return Plan()  # opening it says what is wrong
        return plan_of(job, spec, reducer, self.asked, self.newline != "none")

    @property
    def packages(self) -> Sequence[str]:
        return ("lmms-eval",) if self.asked else ()

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
        stop: int | None = None,
    ) -> Iterator[QuestionBatch]:
        return question_batches(samples, batch_size, workers, start, stop)

    def spent(
        self, quantity: Quantity, rows: Rows, geometry: LlavaGeometry, convention: str
    ) -> list[float]:
        """Tokens of a LLaVA-NeXT picture that was reduced crop by crop count as if it had five
        crops, as published budgets do; ``macs`` up to the first logits."""
        read = [row for row in rows if row["error"] is None]
        if quantity == "macs":
            return [
                100 * ((row["model_macs"] + row["method_macs"]) / row["unpruned_macs"] - 1)
                for row in read
            ]
        name = {"handed": "handed_to_llm", "layer_mean": "llm_layer_mean"}[quantity]
        return [row[name] * _as_of_five(row) for row in read]


def _as_of_five(row: Row) -> float:
    """Factor from the tokens of a picture to those it would have with all of its crops. In the
    language model the tokens of all crops are counted together, however many there are."""
    crops = len(row["tokens"])
    return CROPS / crops if crops > 1 and not row["language_fired"] else 1.0
