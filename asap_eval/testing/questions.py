"""A vision-language model with pictures and questions, as a subject: the project's small LLaVA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from asap_eval.hosts import install
from asap_eval.method import Reducer
from asap_eval.models import LoadedVlm
from asap_eval.testing import llava
from asap_eval.testing.subject import Seen, Subject
from asap_eval.trace import Trace


@dataclass
class Questions(Subject):
    """A small LLaVA of the project with its first samples; in fp64, where decisions of these deep
    models do not hang on the order of sums.

    Attributes:
        tokens: generated of each answer, the first one from the logits that are compared.
    """

    name: str = "llava_tiny"
    dtype: torch.dtype = torch.float64
    samples: tuple[int, ...] = (0, 1)
    tokens: int = 6
    tolerance: float = 1e-6
    near: float = 1e-6

    def __post_init__(self) -> None:
        self.loaded: LoadedVlm = llava.vlm(self.name, self._precision)
        self.model = self.loaded.model
        self.said = self.name

    @property
    def _precision(self) -> str:
        """Its dtype, as a model's option names it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def count(self) -> int:
        return len(self.samples)

    @property
    def names(self) -> list[str]:
        return [f"question {number}" for number in range(self.count)]

    @property
    def prefix(self) -> int:
        return 1

    def _inputs(self, picked: Sequence[int] | None) -> dict[str, Any]:
        return llava.inputs(self.name, *self._numbers(picked), dtype=self._precision)

    def _numbers(self, picked: Sequence[int] | None) -> list[int]:
        """Of samples, as `llava` counts them."""
        return [*self.samples] if picked is None else [self.samples[at] for at in picked]

    def plain(self) -> Tensor:
        return llava.logits(self.loaded, self._inputs(None))

    def seen(
        self,
        reducer: Reducer,
        picked: Sequence[int] | None = None,
        *,
        seed: int = 0,
        names: Sequence[str] | None = None,
    ) -> Seen:
        given = self._inputs(picked)
        with install(self.model, reducer, seed=seed) as trace:
            trace.name_questions([llava.QUESTIONS[number] for number in self._numbers(picked)])
            if names is not None:
                trace.name_images(names)
            logits, ids = llava.logits_and_ids(self.loaded, given, self.tokens)
        answers = ids[:, -self.tokens :]
        decided = [decided_of(trace, at) | {"answer": answers[at]} for at in range(len(logits))]
        noted = [_noted(trace, at) for at in range(len(logits))]
        return Seen(logits, decided, noted, trace)

    def in_dtype(self, dtype: torch.dtype) -> Questions:
        return replace(self, dtype=dtype)


def decided_of(trace: Trace, sample: int) -> dict[str, Tensor]:
    """What was decided about a sample: its crops in the tower, then its prompt."""
    crops, language = trace.sample == sample, trace.language
    held = language.source[sample, : int(trace.handed_to_llm[sample])]
    return {
        "fired": trace.fired[crops],
        "lengths": trace.lengths[:, crops],
        "source": trace.source[crops],
        "method_macs": trace.method_macs[crops],
        "handed_to_llm": trace.handed_to_llm[sample],
        "language.fired": language.fired[sample],
        "language.lengths": language.lengths[:, sample],
        "language.cached_tokens": language.cached_tokens[:, sample],
        "language.source": held,
        "language.method_macs": language.method_macs[sample],
    }


def _noted(trace: Trace, sample: int) -> dict[str, Tensor]:
    crops = trace.sample == sample
    return {name: values[crops] for name, values in trace.notes.items()}
