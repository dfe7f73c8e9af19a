"""Classification of images: accuracy, work, tokens, firing; one row per image."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from asap_eval.bench.images import ImageBatch, ImageSet, Sample, image_batches, open_images
from asap_eval.bench.macs import model_macs, unpruned_macs
from asap_eval.bench.speed import Pixels, measure_speed
from asap_eval.errors import AsapEvalError, DataError
from asap_eval.hosts import Geometry, geometry_of, install
from asap_eval.journal import Row
from asap_eval.method import Reducer
from asap_eval.models import LoadedModel
from asap_eval.record import Fired, Macs, Metrics, Tokens
from asap_eval.trace import Trace

SPEED_BATCHES = 4
"""Different batches of real images that the speed rounds take turns on, where there are as many."""


@dataclass(frozen=True)
class Summary:
    """The blocks of a record that rows decide."""

    metrics: Metrics
    macs: Macs
    tokens: Tokens
    fired: Fired


class ImageNet:
    """ImageNet and every other folder, data set or shard of labelled images."""

    budgets: ClassVar[dict[str, str]] = {
        "tokens": "it counts tokens handed to a language model, and there is none here",
    }
    """Budgets this benchmark cannot meet, and why."""

    def open(
        self, data: str, loaded: LoadedModel, *, limit: int | None, sample: Sample
    ) -> ImageSet:
        """The images of an address with the model's class numbers."""
        return open_images(
            data, classes=loaded.classes, labels=loaded.labels, limit=limit, sample=sample
        )

    def batches(
        self,
        loaded: LoadedModel,
        images: ImageSet,
        *,
        batch_size: int,
        workers: int = 0,
        start: int = 0,
    ) -> Iterator[ImageBatch]:
        """Decoded batches in the order of the images, from position ``start`` on."""
        return image_batches(images, loaded.transform, batch_size, workers, start=start)

    def evaluate(
        self, loaded: LoadedModel, reducer: Reducer, batches: Iterable[ImageBatch], *, seed: int
    ) -> Generator[list[Row], None, None]:
        """Rows of one batch after the other; the method is in the model until it is closed.

        Raises:
            AsapEvalError: the model gives scores that are not numbers.
        """
        geometry = geometry_of(loaded.model)
        first = next(loaded.model.parameters())
        with torch.inference_mode(), install(loaded.model, reducer, seed=seed) as trace:
            for batch in batches:
                if len(batch.pixels) == 0:
                    yield _failed_rows(batch, loaded.classes)
                    continue
                trace.name_images(_readable(batch))
                logits = loaded.model(batch.pixels.to(first.device, first.dtype))
                yield _rows(batch, logits.float().cpu(), trace, geometry)

    def speed(
        self,
        loaded: LoadedModel,
        reducer: Reducer,
        images: ImageSet,
        *,
        batch_size: int,
        seed: int,
        rounds: int,
        progress: Callable[[], None],
    ) -> dict[str, Any]:
        """The ``speed`` block, measured on evaluated images spread over all of them.

        Raises:
            DataError: fewer readable images than one batch holds.
        """
        first = next(loaded.model.parameters())
        # Never half a batch: a smaller one would be another measurement.
        count = min(SPEED_BATCHES, len(images) // batch_size) * batch_size
        chosen = replace(images, places=[images.places[at] for at in _even(len(images), count)])
        batches = []
        for batch in self.batches(loaded, chosen, batch_size=batch_size):
            if not batch.failures:
                pixels = batch.pixels.to(first.device, first.dtype)
                batches.append(Pixels(pixels, tuple(batch.ids)))
        if not batches:
            raise DataError(
                f"Speed needs a batch of {batch_size} readable images; each of the {count} images "
                "chosen for it is in a batch with an unreadable one."
            )
        return measure_speed(
            loaded.model, reducer, batches, rounds=rounds, seed=seed, progress=progress
        )

    def summarise(self, rows: Sequence[Row], geometry: Geometry, convention: str) -> Summary:
        """What the rows of all images say together.

        Raises:
            DataError: not one image could be read.
        """
        read = [row for row in rows if row["error"] is None]
        if not read:
            raise DataError(
                f"None of the {len(rows)} images could be read; the first says: {rows[0]['error']}"
            )
        return Summary(_metrics(rows), _macs(read, geometry, convention), _tokens(read),
                       _fired(read, geometry.depth))  # fmt: skip


def _even(total: int, count: int) -> list[int]:
    """``count`` positions of ``total``, at even distances."""
    return [at * total // count for at in range(count)]


def macs_change(rows: Sequence[Row], geometry: Geometry) -> list[float]:
    """Total change of the MACs of each readable image in percent, the method's own included."""
    whole = unpruned_macs(geometry)
    return [
        100 * ((row["model_macs"] + row["method_macs"]) / whole - 1)
        for row in rows
        if row["error"] is None
    ]


def _readable(batch: ImageBatch) -> list[str]:
    return [i for at, i in zip(batch.indices, batch.ids, strict=True) if at not in batch.failures]


def _rows(batch: ImageBatch, logits: Tensor, trace: Trace, geometry: Geometry) -> list[Row]:
    """``logits`` is ``[b, classes]`` of the readable images."""
    if not bool(logits.isfinite().all()):
        bad = _readable(batch)[int((~logits.isfinite()).any(1).nonzero()[0])]
        raise AsapEvalError(
            f"The model's scores for {bad} are not finite numbers. Half precision may overflow: "
            "use dtype=bfloat16 or dtype=float32."
        )
    best = logits.topk(min(5, logits.shape[1])).indices.tolist()
    values = zip(
        best,
        trace.fired.tolist(),
        (trace.lengths - geometry.prefix).T.tolist(),
        model_macs(geometry, trace).tolist(),
        trace.method_macs.tolist(),
        strict=True,
    )
    rows = []
    for at, name, label in zip(batch.indices, batch.ids, batch.labels, strict=True):
        if at in batch.failures:
            rows.append(_failed(name, label, batch.failures[at], logits.shape[1]))
            continue
        classes, fired, lengths, own, method = next(values)
        rows.append({
            "id": name,
            "label": label,
            "prediction": classes[0],
            "correct": classes[0] == label,
            "top5": label in classes if logits.shape[1] >= 5 else None,
            "fired": fired,
            "tokens": lengths[-1],
            "layer_mean": sum(lengths) / len(lengths),
            "model_macs": own,
            "method_macs": method,
            "error": None,
        })  # fmt: skip
    return rows


def _failed_rows(batch: ImageBatch, classes: int) -> list[Row]:
    return [
        _failed(name, label, batch.failures[at], classes)
        for at, name, label in zip(batch.indices, batch.ids, batch.labels, strict=True)
    ]


def _failed(name: str, label: int, message: str, classes: int) -> Row:
    """A sample that could not be read: wrong, without tokens or work."""
    empty = ("prediction", "fired", "tokens", "layer_mean", "model_macs", "method_macs")
    wrong = {"correct": False, "top5": False if classes >= 5 else None}
    return {"id": name, "label": label, **dict.fromkeys(empty), **wrong, "error": message}


def _metrics(rows: Sequence[Row]) -> Metrics:
    def percent(name: str) -> float:
        return 100.0 * sum(bool(row[name]) for row in rows) / len(rows)

    return Metrics(
        top1=percent("correct"),
        top5=None if rows[0]["top5"] is None else percent("top5"),
        n=len(rows),
        failed=sum(row["error"] is not None for row in rows),
    )


def _macs(read: Sequence[Row], geometry: Geometry, convention: str) -> Macs:
    whole = unpruned_macs(geometry)
    own = statistics.fmean(row["model_macs"] for row in read)
    method = statistics.fmean(row["method_macs"] for row in read)
    return Macs(
        baseline_g=whole / 1e9,
        mean_g=own / 1e9,
        method_g=method / 1e9,
        reduction_pct=100 * ((own + method) / whole - 1),
        reduction_model_pct=100 * (own / whole - 1),
        convention=convention,
    )


def _tokens(read: Sequence[Row]) -> Tokens:
    kept = [row["tokens"] for row in read]
    return Tokens(
        kept_min=min(kept),
        kept_median=float(statistics.median(kept)),
        kept_mean=statistics.fmean(kept),
        kept_max=max(kept),
        layer_mean=statistics.fmean(row["layer_mean"] for row in read),
    )


def _fired(read: Sequence[Row], depth: int) -> Fired:
    blocks = [row["fired"] for row in read if row["fired"]]
    return Fired(
        mean=statistics.fmean(blocks) if blocks else None,
        min=min(blocks, default=None),
        max=max(blocks, default=None),
        never=len(read) - len(blocks),
        histogram={str(block): blocks.count(block) for block in range(1, depth + 1)},
    )
