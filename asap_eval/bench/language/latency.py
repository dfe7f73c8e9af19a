"""Latency of a vision-language model, phase by phase, in turns with the unpruned one.

Every batch is answered by the unpruned model and by the method, in an order that swaps from batch
to batch (A B B A), after a warm-up; pictures are decoded, processed and on the device before the
clock starts. The unpruned model runs with fused attention and without the tower's last block, which
nobody reads: the fastest it can go.

A row is one question: counts and work as in ``bench=vlm``; ``ms`` and ``unpruned_ms`` by phase
(`asap_eval.timing.answer`), shared by the questions of a batch; ``steps`` decoding steps of the
batch; ``memory_gb`` and ``unpruned_memory_gb``, by phase, of the first batch alone.

Of a record: ``latency_ms`` ``{encode prefill decode answer}{median p10 p90}`` of the method;
``memory_gb``: ``weights``, and the peak above them ``prefill`` and ``answer`` on the first batch
(on a CPU what torch's allocator sees). ``speed``: ``speedup`` of the prefill and
``answer_speedup``, ``{median p10 p90}`` over the questions; ``ideal`` unpruned MACs over the
method's model MACs up to the first logits, its own products left out; ``share_of_ideal`` of the
prefill; ``rounds`` batches; ``backend``. ``analysis``: that of ``bench=vlm`` without scores, and
``unpruned_ms`` as ``latency_ms``; ``unpruned_memory_gb``; ``decode_token_ms`` and
``unpruned_decode_token_ms``, median per token after the first (null where none came); ``warmup``.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from asap_eval.bench.bench import Summary, register
from asap_eval.bench.first_samples import FirstSamples
from asap_eval.bench.language.answers import answers_from
from asap_eval.bench.language.asked import AskedBatch, ask, inputs_of, refused
from asap_eval.bench.language.question_bench import QuestionBench
from asap_eval.bench.language.rows import UNANSWERED, measured, work_summary
from asap_eval.data.questions.pictures import look_in, open_pictures
from asap_eval.data.questions.question_set import QuestionBatch, QuestionSet
from asap_eval.data.questions.tasks import Task
from asap_eval.data.subset import Sample
from asap_eval.errors import BadValueError
from asap_eval.hosts import LlavaGeometry, install, llava_geometry
from asap_eval.method import Reducer
from asap_eval.models import LoadedVlm
from asap_eval.record import RunRecord
from asap_eval.record.journal import Row, Rows
from asap_eval.timing.answer import Phases, timed_answer
from asap_eval.timing.memory import peak_gb
from asap_eval.timing.speed import backend, fastest_unpruned, spread
from asap_eval.trace import Trace
from asap_eval.work.rows import readable

UNTIMED: Row = dict.fromkeys(("ms", "unpruned_ms", "steps", "memory_gb", "unpruned_memory_gb"))
"""What a question without a usable picture has of the times."""

Processed = AskedBatch["dict[str, Any] | None"]
"""A batch before it is answered: its result are the keywords of `generate`, None = no question."""


@register("latency", "Vision-language models: time to the first token and to the answer, memory.")
@dataclass
class Latency(QuestionBench):
    """Times of prefill, decoding and answer, beside the unpruned model's in the same process.

    Attributes:
        tasks: whose questions are asked. warmup: questions answered by both before the first that
            counts. question: asked of every picture of a folder (``data``) in place of tasks.
    """

    tasks: list[str] = field(default_factory=lambda: ["pope"])
    warmup: int = 20
    question: str | None = None

    accuracy = False
    no_pieces = "its times are compared with those of the same process"
    no_speed = "it measures nothing else"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup < 0:
            raise BadValueError(f"bench.warmup={self.warmup}: give a number of questions >= 0.")
        # What the times were taken on; None where every row is of an earlier process.
        self._backend: dict[str, Any] | None = None
        self._weights_gb = 0.0

    @property
    def asked(self) -> list[Task]:
        """Tasks whose questions are asked; none where a folder's pictures are."""
        return super().asked if self.question is None else []

    def look(self, data: str, labels: str | None) -> None:
        super().look(data, labels)
        if self.question is not None:
            look_in(data)

    def open(
        self, data: str, loaded: LoadedVlm, *, limit: int | None, sample: Sample
    ) -> QuestionSet:
        """Questions of tasks, or the pictures of a folder with one question."""
        self._weights_gb = sum(p.nbytes for p in loaded.model.parameters()) / 1e9
        if self.question is None:
            return super().open(data, loaded, limit=limit, sample=sample)
        return open_pictures(
            data, self.question, limit=limit, sample=sample, new_tokens=self.new_tokens
        )

    def calibrating(
        self, loaded: LoadedVlm, reducer: Reducer, batches: Iterable[QuestionBatch], *, seed: int
    ) -> Generator[list[Row], None, None]:
        """Counts alone: nothing is timed while a knob is searched."""
        for batch in batches:
            asked = _processed(loaded, batch)
            counted: list[Row] = []
            if (given := asked.result) is not None:
                with self._installed(loaded, reducer, asked, seed) as trace:
                    out, _ = timed_answer(loaded.model, given, max_new_tokens=1)
                    counted = _counts(loaded, trace, given, out)
            yield _rows(asked, [row | UNTIMED for row in counted])

    def evaluate(
        self, loaded: LoadedVlm, reducer: Reducer, batches: Iterable[QuestionBatch], *, seed: int
    ) -> Generator[list[Row], None, None]:
        """Rows of one batch after the other, timed in turns."""
        both = {"unpruned": fastest_unpruned(next(loaded.model.parameters())), "method": reducer}
        rest = (_processed(loaded, batch) for batch in batches)
        head = self._warm(loaded, both, rest, seed)
        first = True
        for number, asked in enumerate(itertools.chain(head, rest)):
            if (given := asked.result) is None:
                yield _rows(asked, [])
                continue
            times: dict[str, Phases] = {}
            counted: list[Row] = []
            for name in list(both)[:: 1 if number % 2 == 0 else -1]:
                with self._installed(loaded, both[name], asked, seed) as trace:
                    out, times[name] = timed_answer(
                        loaded.model, given, max_new_tokens=asked.batch.new_tokens
                    )
                    if name == "method":
                        counted = _counts(loaded, trace, given, out)
            steps = max(row["new_tokens"] for row in counted) - 1
            taken = {
                "ms": times["method"]._asdict(),
                "unpruned_ms": times["unpruned"]._asdict(),
                "steps": steps,
                "memory_gb": self._peaks(loaded, reducer, asked, seed) if first else None,
                "unpruned_memory_gb": (
                    self._peaks(loaded, both["unpruned"], asked, seed) if first else None
                ),
            }
            first = False
            yield _rows(asked, [row | taken for row in counted])

    def _warm(
        self, loaded: LoadedVlm, both: Mapping[str, Reducer], rest: Iterator[Processed], seed: int
    ) -> list[Processed]:
        """Answer the first questions with both until `warmup` answers are done, again where they
        are few; returns their batches, which are timed as well."""
        head: list[Processed] = []
        first = FirstSamples()  # here no row is seen before the warm-up is done
        while sum(len(asked.ready) for asked in head) < max(self.warmup, 1):
            if (asked := next(rest, None)) is None:
                break
            first.see((q.id, asked.errors.get(q.id)) for q in asked.batch.questions)
            head.append(asked)
        usable = [(asked, given) for asked in head if (given := asked.result) is not None]
        if usable:
            _, given = usable[0]
            self._backend = backend(given["pixel_values"])  # settles the allocator, too
        done, turns = 0, itertools.cycle(usable)
        while usable and done < self.warmup:
            asked, given = next(turns)
            for reducer in both.values():
                with self._installed(loaded, reducer, asked, seed):
                    timed_answer(loaded.model, given, max_new_tokens=asked.batch.new_tokens)
            done += len(asked.ready)
        return head

    @contextmanager
    def _installed(
        self, loaded: LoadedVlm, reducer: Reducer, asked: Processed, seed: int
    ) -> Iterator[Trace]:
        """A method in the model for one call on a batch; entering it is not timed."""
        with install(loaded.model, reducer, seed=seed, newline=self.newline) as trace:
            trace.name_images([one.id for one in asked.ready])
            trace.name_questions([one.prompt for one in asked.ready])
            yield trace

    def _peaks(
        self, loaded: LoadedVlm, reducer: Reducer, asked: Processed, seed: int
    ) -> dict[str, float]:
        """Peak GB above the weights until the first logits, and of the whole answer; not timed."""
        assert asked.result is not None
        found = {}
        for phase, tokens in (("prefill", 1), ("answer", asked.batch.new_tokens)):
            answer = partial(timed_answer, loaded.model, asked.result, max_new_tokens=tokens)
            with self._installed(loaded, reducer, asked, seed):
                found[phase] = peak_gb(answer, *loaded.devices)
        return found

    def summarise(self, rows: Rows, geometry: LlavaGeometry, convention: str) -> Summary:
        """What the rows of all questions say together.

        Raises:
            DataError: not one question could be answered.
        """
        read = readable(rows, "questions", "answered")
        work = work_summary(read, geometry, convention)
        ratios = {
            phase: [row["unpruned_ms"][phase] / row["ms"][phase] for row in read]
            for phase in ("prefill", "answer")
        }
        speedup, ideal = spread(ratios["prefill"]), work.macs.baseline_g / work.macs.mean_g
        memory, unpruned_memory = (_most(read, n) for n in ("memory_gb", "unpruned_memory_gb"))
        return replace(
            work,
            latency_ms=_spreads(read, "ms"),
            memory_gb={"weights": self._weights_gb, **memory},
            speed={
                "speedup": speedup,
                "answer_speedup": spread(ratios["answer"]),
                "ideal": ideal,
                "share_of_ideal": speedup["median"] / ideal,
                "rounds": len({tuple(row["ms"].values()) for row in read}),
                "backend": self._backend,
            },
            analysis={
                **(work.analysis or {}),
                "unpruned_ms": _spreads(read, "unpruned_ms"),
                "unpruned_memory_gb": {"weights": self._weights_gb, **unpruned_memory},
                "decode_token_ms": _per_token(read, "ms"),
                "unpruned_decode_token_ms": _per_token(read, "unpruned_ms"),
                "warmup": self.warmup,
            },
        )

    def compare(self, record: RunRecord, unpruned: RunRecord, rows: Rows, before: Rows) -> None:
        """Nothing: the unpruned model runs beside the method, not in a record of its own."""


def _processed(loaded: LoadedVlm, batch: QuestionBatch) -> Processed:
    """A batch with its pictures decoded, processed and on the device."""
    return ask(batch, partial(inputs_of, loaded), partial(refused, loaded))


def _counts(loaded: LoadedVlm, trace: Trace, given: Mapping[str, Any], out: Tensor) -> list[Row]:
    """Counts and work of the questions that were asked, in order."""
    geometry = llava_geometry(loaded.model)
    return [measured(one) for one in answers_from(loaded, trace, geometry, given, out)]


def _rows(asked: Processed, found: Sequence[Row]) -> list[Row]:
    """Rows of all questions of a batch; ``found`` is of those that were asked, in order."""
    by_id = {one.id: row for one, row in zip(asked.ready, found, strict=True)}
    return [
        {
            "id": question.id,
            **by_id.get(question.id, UNANSWERED | UNTIMED),
            "error": asked.error(question),
        }
        for question in asked.batch.questions
    ]


def _spreads(read: Rows, name: str) -> dict[str, dict[str, float]]:
    return {phase: spread([row[name][phase] for row in read]) for phase in Phases._fields}


def _most(read: Rows, name: str) -> dict[str, float]:
    """By phase, the largest of the batches that were looked at."""
    seen = [row[name] for row in read if row[name] is not None]
    return {phase: max(peaks[phase] for peaks in seen) for phase in (seen[0] if seen else ())}


def _per_token(read: Rows, name: str) -> float | None:
    taken = [row[name]["decode"] / row["steps"] for row in read if row["steps"]]
    return statistics.median(taken) if taken else None
