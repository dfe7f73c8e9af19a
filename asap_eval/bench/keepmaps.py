"""Which patches of single images a method keeps, pools and drops: what keep-maps are drawn from.

A row holds ``source``, the slot of each patch after the last block (-1 = dropped); ``fates``, the
place of each in `patches.FATES`; ``notes``, what the method shows of the image by name (of ASAP
the ``sink``'s patch, the ``distance`` of each patch to it and its ``bin``; -1 where it never
fired); and ``input``, the name of a PNG in the folder ``inputs`` beside the record: the image as
the model saw it. Patches count from 0, row by row. Inputs are named by their content, so that the
records of several methods share them. Photographs are turned upright (EXIF) before the model sees
them.

``analysis`` of a record: ``grid``, patches down and across; ``kept``, ``pooled`` and ``dropped``,
the shares of patches, means over images.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from asap_eval.bench.bench import register
from asap_eval.bench.image_bench import ImageBench
from asap_eval.bench.patches import FATES, as_pictures, fates_of
from asap_eval.data.folders import LooseStore, look_below
from asap_eval.data.images import ImageBatch, ImageSet, chosen_images
from asap_eval.data.subset import Sample
from asap_eval.files.placed import placed
from asap_eval.hosts import Geometry
from asap_eval.models import LoadedModel
from asap_eval.record.journal import Rows
from asap_eval.trace import Trace

INPUTS = "inputs"
"""Folder of the pictures beside the records."""


@register("keepmaps", "Any images: which patches a method keeps, pools and drops, as pictures.")
@dataclass
class KeepMaps(ImageBench):
    """Fates of the patches of single images. It has no options."""

    accuracy = False
    images = "any"
    writes = True
    no_speed = "it is for looking at single images. Use bench=imagenet"

    def __post_init__(self) -> None:
        self._inputs: Path | None = None
        self._transform: Callable[[Any], Tensor] | None = None

    def look(self, data: str, labels: str | None) -> None:
        look_below(data)

    def open(
        self, data: str, loaded: LoadedModel, *, limit: int | None, sample: Sample
    ) -> ImageSet:
        """The images of a folder, at any depth, upright; nothing is read from their names."""
        self._transform = loaded.transform
        return chosen_images(
            lambda: LooseStore(data), data, limit=limit, sample=sample, upright=True
        )

    def begin(self, stem: Path, done: int, piece: Path | None = None) -> None:
        self._inputs = stem.parent / INPUTS

    def measure(self, batch: ImageBatch, output: Tensor, trace: Trace) -> list[dict[str, Any]]:
        assert self._transform is not None
        source = trace.source.cpu()
        notes = {name: values.cpu().tolist() for name, values in sorted(trace.notes.items())}
        return [
            {
                "source": slots,
                "fates": fates,
                "notes": {name: _short(values[at]) for name, values in notes.items()},
                "input": self._kept(picture),
            }
            for at, (slots, fates, picture) in enumerate(
                zip(
                    source.tolist(),
                    fates_of(source).tolist(),
                    as_pictures(batch.pixels, self._transform),
                    strict=True,
                )
            )
        ]

    def unmeasured(self, label: int | None) -> dict[str, Any]:
        return dict.fromkeys(("source", "fates", "notes", "input"))

    def analysis(self, read: Rows, geometry: Geometry) -> dict[str, Any]:
        shares = {
            fate: statistics.fmean(row["fates"].count(at) / geometry.patches for row in read)
            for at, fate in enumerate(FATES)
        }
        return {"grid": list(geometry.grid), **shares}

    def _kept(self, picture: Image.Image) -> str:
        """The name of a picture, written if it is not there yet; a budget's search writes none."""
        content = BytesIO()
        picture.save(content, "PNG")
        name = f"{hashlib.sha256(picture.tobytes()).hexdigest()[:16]}.png"
        if self._inputs is not None and not (self._inputs / name).exists():
            with placed(self._inputs / name) as part:
                part.write_bytes(content.getbuffer())
        return name


def _short(value: Any) -> Any:
    """Numbers with as many digits as a picture shows."""
    if isinstance(value, list):
        return [_short(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
