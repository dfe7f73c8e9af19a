"""Models and samples on which a method is tried, and what a pass left of each sample."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from asap_eval.hosts import Geometry, geometry_of, install
from asap_eval.method import Batch, Reducer
from asap_eval.testing.models import output
from asap_eval.testing.operators import like
from asap_eval.timing.speed import Unpruned
from asap_eval.trace import Trace

Effect = Literal["tokens", "attention", "nothing"]
"""What a setting does: at least one sample has fewer tokens; tokens stay and their attention is
replaced; nothing."""


@dataclass
class Seen:
    """What one pass left.

    Attributes:
        outputs: ``[b, ...]`` what a person reads from the model.
        decided: of each sample, what has to be equal wherever it runs, by name.
        noted: of each sample, the numbers a method notes.
    """

    outputs: Tensor
    decided: list[dict[str, Tensor]]
    noted: list[dict[str, Tensor]]
    trace: Trace


class Subject(ABC):
    """A model with samples.

    Attributes:
        said: what it is, in words. tolerance: between outputs of two batches, which the order of
            sums alone moves. near: between the model's own output and one with every token kept.
    """

    said: str
    model: nn.Module
    tolerance: float
    near: float

    @property
    @abstractmethod
    def count(self) -> int:
        """Samples."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Of the samples, as seeds take them."""

    @abstractmethod
    def plain(self) -> Tensor:
        """``[b, ...]`` the model's own output for all samples."""

    @abstractmethod
    def seen(
        self,
        reducer: Reducer,
        picked: Sequence[int] | None = None,
        *,
        seed: int = 0,
        names: Sequence[str] | None = None,
    ) -> Seen:
        """A pass over some samples, or over all.

        Args:
            names: of the samples; ``None`` = from their content.
        """

    @abstractmethod
    def in_dtype(self, dtype: torch.dtype) -> Subject:
        """The same in another dtype."""

    @property
    @abstractmethod
    def prefix(self) -> int:
        """Prefix tokens of what the method sees."""

    def batch(self, reducer: Reducer) -> Batch:
        """What a method is told of a batch of all samples."""
        told: list[Batch] = []

        def check(self: Reducer, batch: Batch) -> None:
            told.append(batch)

        self.seen(like(Unpruned(), tower=type(reducer).tower, check=check))
        return told[0]


@dataclass(frozen=True)
class Images(Subject):
    """An image model with images ``[B, 3, H, W]``."""

    model: nn.Module
    images: Tensor
    said: str = "the model"
    tolerance: float = 2e-5
    near: float = 1e-5
    _copies: dict[torch.dtype, Images] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        return len(self.images)

    @property
    def names(self) -> list[str]:
        return [f"image {number}" for number in range(self.count)]

    @cached_property
    def geometry(self) -> Geometry:
        return geometry_of(self.model)

    @property
    def prefix(self) -> int:
        return self.geometry.prefix

    def plain(self) -> Tensor:
        return output(self.model, self.images)

    def seen(
        self,
        reducer: Reducer,
        picked: Sequence[int] | None = None,
        *,
        seed: int = 0,
        names: Sequence[str] | None = None,
    ) -> Seen:
        x = self.images if picked is None else self.images[list(picked)]
        with install(self.model, reducer, seed=seed) as trace:
            if names is not None:
                trace.name_images(names)
            got = output(self.model, x)
        return Seen(got, decided_of(trace), noted_of(trace), trace)

    def in_dtype(self, dtype: torch.dtype) -> Images:
        if dtype == self.images.dtype:
            return self
        if dtype not in self._copies:
            model = copy.deepcopy(self.model).to(dtype)
            self._copies[dtype] = replace(
                self, model=model, images=self.images.to(dtype), _copies={}
            )
        return self._copies[dtype]


def decided_of(trace: Trace) -> list[dict[str, Tensor]]:
    """What was decided about each image of a pass."""
    return [
        {
            "fired": trace.fired[at],
            "lengths": trace.lengths[:, at],
            "attention_tokens": trace.attention_tokens[:, at],
            "mlp_tokens": trace.mlp_tokens[:, at],
            "source": trace.source[at],
            "method_macs": trace.method_macs[at],
        }
        for at in range(len(trace.fired))
    ]


def noted_of(trace: Trace) -> list[dict[str, Tensor]]:
    """What was noted of each image of a pass."""
    return [
        {name: values[at] for name, values in trace.notes.items()} for at in range(len(trace.fired))
    ]


@dataclass(frozen=True)
class Trial:
    """One set of options of one method on one subject.

    Attributes:
        build: the method, afresh at every call. effect: what these options do.
        conserves: whether no patch is dropped: all live on in some token; ``None`` = not said.
        options: in words.
    """

    subject: Subject
    build: Callable[[], Reducer]
    effect: Effect = "tokens"
    conserves: bool | None = None
    options: str = ""

    @cached_property
    def whole(self) -> Seen:
        """A pass over all samples."""
        return self.subject.seen(self.build())
