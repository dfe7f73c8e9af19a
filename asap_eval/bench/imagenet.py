"""Classification of images: accuracy, work, tokens, firing; one row per image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from asap_eval.bench.accuracy import accuracy
from asap_eval.bench.bench import register
from asap_eval.bench.image_bench import ImageBench
from asap_eval.data.address import look
from asap_eval.data.images import ImageBatch, ImageSet, images_of
from asap_eval.data.subset import Sample
from asap_eval.models import LoadedModel
from asap_eval.record import Metrics
from asap_eval.record.journal import Rows
from asap_eval.trace import Trace


@register(
    "imagenet", "ImageNet and every other folder, data set or shard of labelled images: accuracy."
)
@dataclass
class ImageNet(ImageBench):
    """Top-1 and top-5 of a classifier, paired with the unpruned model. It has no options."""

    images = "labelled"

    def look(self, data: str, labels: str | None) -> None:
        look(data, labels)

    def open(
        self, data: str, loaded: LoadedModel, *, limit: int | None, sample: Sample
    ) -> ImageSet:
        """The images of an address with the model's class numbers."""
        return images_of(loaded, data, limit=limit, sample=sample)

    def open_flat(
        self, data: str, labels: str, loaded: LoadedModel, *, limit: int | None, sample: Sample
    ) -> ImageSet:
        """The images of a flat folder or tar, with the classes that a file says."""
        return images_of(loaded, data, label_file=labels, limit=limit, sample=sample)

    def measure(self, batch: ImageBatch, output: Tensor, trace: Trace) -> list[dict[str, Any]]:
        """``output`` is ``[b, classes]``."""
        classes = output.shape[1]
        best = output.topk(min(5, classes)).indices.tolist()
        return [
            {
                "label": label,
                "prediction": guesses[0],
                "correct": guesses[0] == label,
                "top5": label in guesses if classes >= 5 else None,
            }
            for label, guesses in zip(batch.of_readable(batch.labels), best, strict=True)
        ]

    def unmeasured(self, label: int | None) -> dict[str, Any]:
        """Counted as wrong."""
        return {"label": label, "prediction": None, "correct": False, "top5": False}

    def metrics(self, rows: Rows) -> Metrics:
        return accuracy(rows)
