"""What benchmarks of image models share: the model's work, budgets, and how speed is measured.

A benchmark whose samples are single images derives from `ImageBench`, which is one of them.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from asap_eval.bench.bench import Bench
from asap_eval.data.images import ImageSet
from asap_eval.hosts import Geometry, geometry_of
from asap_eval.method import Reducer
from asap_eval.models import LoadedModel
from asap_eval.record import Quantity
from asap_eval.record.journal import Rows
from asap_eval.timing.speed import Pixels, measure_speed
from asap_eval.work.macs import unpruned_macs
from asap_eval.work.rows import check_convention, macs_change

SPEED_BATCHES = 4
"""Different batches of real images that the speed rounds take turns on, where there are as many."""

B = TypeVar("B")


class ImageModelBench(Bench[LoadedModel, Geometry, ImageSet, B]):
    """Base of every benchmark of image models; B is one batch of its samples."""

    budgets: ClassVar[Mapping[str, str]] = {
        "tokens": "it counts tokens handed to a language model, and there is none here",
    }
    no_speed: ClassVar[str | None] = None

    def geometry(self, loaded: LoadedModel) -> Geometry:
        return geometry_of(loaded.model)

    def acts_in(self, geometry: Geometry, method: type[Reducer]) -> Geometry:
        """The whole model."""
        return geometry

    def check_convention(self, loaded: LoadedModel, name: str) -> None:
        check_convention(self.geometry(loaded), name)

    def unpruned_work(self, loaded: LoadedModel, geometry: Geometry, samples: ImageSet) -> str:
        work = unpruned_macs(geometry) / 1e9
        whole = work * len(samples) * self.images_per_sample
        return f"{work:.3f} GMACs per image unpruned, {whole:.0f} GMACs in all"

    def spent(
        self, quantity: Quantity, rows: Rows, geometry: Geometry, convention: str
    ) -> list[float]:
        """``macs``, the one kind that `budgets` lets through."""
        return macs_change(rows, geometry, convention)

    def speed(
        self,
        loaded: LoadedModel,
        reducer: Reducer,
        samples: ImageSet,
        *,
        batch_size: int,
        seed: int,
        rounds: int,
        progress: Callable[[], None],
    ) -> dict[str, Any]:
        """The ``speed`` block, measured on evaluated images spread over all samples.

        Raises:
            DataError: fewer readable images than one batch holds.
        """
        count = self.speed_samples(len(samples), batch_size)
        places = [samples.places[at * len(samples) // count] for at in range(count)]
        begin = time.perf_counter()
        chosen = replace(samples, places=places, cache=None)  # few, and how long decoding takes
        decoded = list(self.batches(loaded, chosen, batch_size=batch_size))
        seconds = time.perf_counter() - begin
        like = next(loaded.model.parameters())
        found = measure_speed(
            loaded.model,
            reducer,
            [
                Pixels(full.images.to(like.device, like.dtype), full.ids)
                for full in self.full_batches(decoded, batch_size)
            ],
            rounds=rounds,
            seed=seed,
            progress=progress,
        )
        return {**found, **self.rates(found, decoded, seconds)}

    @abstractmethod
    def speed_samples(self, count: int, batch_size: int) -> int:
        """How many of ``count`` samples are decoded for the speed rounds."""

    @abstractmethod
    def full_batches(self, decoded: Sequence[B], batch_size: int) -> list[Pixels]:
        """The readable images as batches of exactly ``batch_size``, as they were decoded.

        Raises:
            DataError: there are fewer.
        """

    def rates(
        self, speed: Mapping[str, Any], decoded: Sequence[B], seconds: float
    ) -> dict[str, Any]:
        """What a benchmark adds to the ``speed`` block.

        Args:
            speed: the block so far. seconds: that decoding took, in this process.
        """
        return {}
