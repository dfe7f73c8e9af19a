"""What benchmarks of single images share: decoding, batches, failed images, work, speed.

A benchmark adds `open`, and what it measures of each image (`measure`) and of all (`metrics`,
`analysis`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from asap_eval.bench.bench import Summary
from asap_eval.bench.image_model_bench import SPEED_BATCHES, ImageModelBench
from asap_eval.data.decoded import PictureCache
from asap_eval.data.feeding import fed
from asap_eval.data.images import ImageBatch, ImageSet, image_batches
from asap_eval.errors import AsapEvalError, DataError
from asap_eval.hosts import Geometry, geometry_of, install
from asap_eval.method import Reducer
from asap_eval.models import LoadedModel
from asap_eval.record import Metrics
from asap_eval.record.journal import Row, Rows
from asap_eval.timing.speed import Pixels
from asap_eval.trace import Trace
from asap_eval.transfer import Arriving
from asap_eval.work.rows import (
    MACS,
    NO_WORK,
    SLOTS,
    columns,
    fired_block,
    macs_block,
    readable,
    tokens_block,
    work_of,
)


class ImageBench(ImageModelBench[ImageBatch]):
    """Base of every benchmark of single images; rows are common columns and its own."""

    piece = 512
    waits: ClassVar[bool] = True
    """Whether a batch's rows may be made after the next one has gone through the model, so that a
    GPU need not idle meanwhile; not where `measure` reads what the next pass overwrites."""

    def beside(self, loaded: LoadedModel, images: ImageSet) -> Callable[[int], Tensor] | None:
        """What is decoded with image ``index`` into ``batch.beside``; None = nothing."""
        return None

    def installed(self, reducer: Reducer) -> Reducer:
        """What really runs in the model: a benchmark may watch the unpruned one."""
        return reducer

    @abstractmethod
    def measure(self, batch: ImageBatch, output: Tensor, trace: Trace) -> list[dict[str, Any]]:
        """Own columns of the readable images, in order.

        Args:
            output: ``[b, ...]`` fp32 on the CPU, what the model says. trace: of this pass.
        """

    @abstractmethod
    def unmeasured(self, label: int | None) -> dict[str, Any]:
        """Own columns of an image that could not be read."""

    def metrics(self, rows: Rows) -> Metrics | None:
        """Accuracy over all rows, unreadable images included."""
        return None

    def analysis(self, read: Rows, geometry: Geometry) -> dict[str, Any] | None:
        """The record's ``analysis`` from the rows of readable images."""
        return None

    def notes(self, samples: ImageSet) -> Sequence[str]:
        """How class numbers were found where names do not say, and which files are left out."""
        return samples.notes

    def keeping(self, samples: ImageSet, cache: PictureCache) -> ImageSet:
        return replace(samples, cache=cache)

    def batches(
        self,
        loaded: LoadedModel,
        samples: ImageSet,
        *,
        batch_size: int,
        workers: int = 0,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[ImageBatch]:
        return image_batches(
            samples,
            loaded.transform,
            batch_size,
            workers,
            start,
            self.beside(loaded, samples),
            pinned=_on_a_gpu(loaded),
            stop=stop,
        )

    def evaluate(
        self, loaded: LoadedModel, reducer: Reducer, batches: Iterable[ImageBatch], *, seed: int
    ) -> Generator[list[Row], None, None]:
        """Rows of one batch after the other; the method is in the model until it is closed.

        Raises:
            AsapEvalError: the model gives scores that are not numbers.
        """
        geometry = geometry_of(loaded.model)
        first = next(loaded.model.parameters())
        running = self.installed(reducer)
        behind = int(self.waits and _on_a_gpu(loaded))
        waiting: deque[Callable[[], list[Row]]] = deque()
        with torch.inference_mode(), install(loaded.model, running, seed=seed) as trace:
            for batch, there in fed(batches, first.device):
                if len(batch.images):
                    trace.name_images(batch.readable)
                    output = loaded.model(there.pixels.to(first.dtype)).float()
                    waiting.append(self._measuring(batch, output, trace, geometry))
                else:
                    waiting.append(partial(self._rows, batch, []))
                if len(waiting) > behind:
                    yield waiting.popleft()()
            while waiting:
                yield waiting.popleft()()

    def _measuring(
        self, batch: ImageBatch, output: Tensor, trace: Trace, geometry: Geometry
    ) -> Callable[[], list[Row]]:
        """Send what a pass left to the CPU; the result makes rows of it, later passes or not."""
        said, passed = Arriving(output), trace.arriving()

        def measured() -> list[Row]:
            scores, left = said.tensor(), passed()
            _check_finite(batch, scores)
            own, work = self.measure(batch, scores, left), work_of(left, geometry)
            found = [{**mine, **done} for mine, done in zip(own, work, strict=True)]
            return self._rows(batch, found)

        return measured

    def _rows(self, batch: ImageBatch, found: Sequence[dict[str, Any]]) -> list[Row]:
        """Rows of all images of a batch; ``found`` is of the readable ones."""
        left = iter(found)
        rows = []
        for at, name, label in zip(batch.indices, batch.ids, batch.labels, strict=True):
            error = batch.failures.get(at)
            values = next(left) if error is None else {**self.unmeasured(label), **NO_WORK}
            rows.append({"id": name, **values, "error": error})
        return rows

    def summarise(self, rows: Rows, geometry: Geometry, convention: str) -> Summary:
        """What the rows of all images say together.

        Raises:
            DataError: not one image could be read.
        """
        read = readable(rows, "images")
        work = columns(read, {**MACS, **SLOTS})
        return Summary(
            macs=macs_block(work, geometry, convention),
            tokens=tokens_block(work),
            fired=fired_block(work["fired"], geometry.depth),
            metrics=self.metrics(rows),
            analysis=self.analysis(read, geometry),
        )

    def speed_samples(self, count: int, batch_size: int) -> int:
        """Whole batches: a smaller one would be another measurement."""
        return min(SPEED_BATCHES, count // batch_size) * batch_size

    def full_batches(self, decoded: Sequence[ImageBatch], batch_size: int) -> list[Pixels]:
        """Batches as they were decoded; those with an unreadable image are left out."""
        whole = [Pixels(batch.pixels, tuple(batch.ids)) for batch in decoded if not batch.failures]
        if not whole:
            raise DataError(
                f"Speed needs a batch of {batch_size} readable images; each of the "
                f"{sum(len(batch.ids) for batch in decoded)} images chosen for it is in a batch "
                "with an unreadable one."
            )
        return whole


def _on_a_gpu(loaded: LoadedModel) -> bool:
    return next(loaded.model.parameters()).is_cuda


def _check_finite(batch: ImageBatch, output: Tensor) -> None:
    finite = output.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        bad = batch.readable[int((~finite).nonzero()[0])]
        raise AsapEvalError(
            f"The model's scores for {bad} are not finite numbers. Half precision may overflow: "
            "use dtype=bfloat16 or dtype=float32."
        )
