"""How much of the foreground survives, on photographs with masks.

ASAP's thesis is that patches near the attention sink are background. A patch is foreground where
its mask covers at least ``threshold`` of it, after the model's own resize and crop. After the last
block a patch is ``kept`` if it is alone in its slot, ``pooled`` if it shares one, or ``dropped``.

``analysis`` of a record (shares are 0 to 1, means over images):

``threshold``; ``images`` measured; ``base_rate`` share of patches that are foreground;
``keep_rate`` share of patches kept; ``foreground_recall`` share of the foreground kept;
``background_removal`` share of the background not kept, the sum of ``background_pooled`` and
``background_dropped``; ``foreground_pooled``, ``foreground_dropped``; ``youden_j`` recall + removal
- 1: 0 = no better than chance at whatever keep rate, 1 = the mask itself, negative = foreground
goes first. An image that is all foreground or all background has no such figures and is counted in
``images_of_one_kind``.

For a method that notes its sink (ASAP): ``sink_images`` with one, ``sink_on_foreground`` share of
them in which it lies on the foreground, ``sink_base_rate`` their share of foreground patches: what
a random patch would give. For the unpruned model ``blocks``: after each block of the walk over
attention, C = T_1 ... T_l with T = A / 2 + I / 2, the share of images whose heaviest patch column
(``heaviest_on_foreground``) and whose largest patch entry in the class token's row
(``cls_on_foreground``, None without a class token) lies on the foreground.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from asap_eval.bench.bench import register
from asap_eval.bench.image_bench import ImageBench
from asap_eval.bench.patches import FATES, fates_of
from asap_eval.bench.sink_watch import SinkWatch, watched
from asap_eval.data.images import ImageBatch, ImageSet, chosen_images
from asap_eval.data.masks import Coverage, MaskStore, geometry_only, look
from asap_eval.data.subset import Sample
from asap_eval.errors import BadValueError, DataError
from asap_eval.hosts import Geometry, geometry_of
from asap_eval.method import Reducer
from asap_eval.models import LoadedModel
from asap_eval.record.journal import Row, Rows
from asap_eval.statistics import mean
from asap_eval.trace import Trace

SIDES = ("foreground", "background")
"""Columns of a row: patches of that side by fate."""
SHARE = (0.0, 1.0)
"""What a share of one image's patches can be."""


@register(
    "saliency",
    "Photographs with foreground masks (ECSSD): how much of the foreground a method keeps, and "
    "where attention sinks lie.",
)
@dataclass
class Saliency(ImageBench):
    """Foreground recall, background removal, and sinks on the foreground.

    Attributes:
        threshold: least share of a patch that the mask covers where it is foreground, 0 < t <= 1.
    """

    threshold: float = 0.5

    accuracy = False
    no_speed = "its photographs have no labels to compare with. Use bench=imagenet"

    def check(self, loaded: LoadedModel) -> None:
        if not 0 < self.threshold <= 1:
            raise BadValueError(
                f"bench.threshold={self.threshold:g} is a share of a patch: give a value in (0, 1]."
            )
        geometry_only(loaded.transform)

    def look(self, data: str, labels: str | None) -> None:
        look(data)

    def open(
        self, data: str, loaded: LoadedModel, *, limit: int | None, sample: Sample
    ) -> ImageSet:
        """Photographs with a mask each; see `MaskStore`."""
        return chosen_images(
            lambda: MaskStore(data), data, limit=limit, sample=sample, upright=True
        )

    def beside(self, loaded: LoadedModel, images: ImageSet) -> Callable[[int], Tensor]:
        grid = geometry_of(loaded.model).grid
        return Coverage(cast(MaskStore, images.store), images.places, loaded.transform, grid)

    def installed(self, reducer: Reducer) -> Reducer:
        return SinkWatch() if reducer.name == "none" else reducer

    def measure(self, batch: ImageBatch, output: Tensor, trace: Trace) -> list[dict[str, Any]]:
        """Patches of each side by fate, and what of the sinks lies on the foreground."""
        assert batch.beside is not None
        foreground = batch.beside >= self.threshold
        rows = _counts(fates_of(trace.source.cpu()), foreground)
        places = {name: at.cpu() for name, at in watched(trace.notes, len(trace.lengths)).items()}
        if "sink" in trace.notes:
            places["sink"] = trace.notes["sink"].cpu()
        for name, at in places.items():
            on = _on(foreground, at.view(len(at), -1))
            for row, values in zip(rows, on, strict=True):
                row[f"{name}_on_foreground"] = values if at.dim() == 2 else values[0]
        return rows

    def unmeasured(self, label: int | None) -> dict[str, Any]:
        return dict.fromkeys(SIDES)

    def analysis(self, read: Rows, geometry: Geometry) -> dict[str, Any]:
        """See the head of this module.

        Raises:
            DataError: no image has both foreground and background.
        """
        both = [row for row in read if all(_size(row, side) for side in SIDES)]
        if not both:
            raise DataError(
                f"None of the {len(read)} images has both foreground and background patches with "
                f"bench.threshold={self.threshold:g}. Lower it, or check the masks."
            )
        recall = [_share(row, "foreground", "kept") for row in both]
        removal = [1 - _share(row, "background", "kept") for row in both]
        balanced = [kept + gone - 1 for kept, gone in zip(recall, removal, strict=True)]
        parts = {
            f"{side}_{fate}": statistics.fmean(_share(row, side, fate) for row in both)
            for side in SIDES
            for fate in FATES[1:]
        }
        return {
            "threshold": self.threshold,
            "images": len(read),
            "images_of_one_kind": len(read) - len(both),
            "base_rate": statistics.fmean(map(_base, read)),
            "keep_rate": statistics.fmean(map(_kept, read)),
            **mean("foreground_recall", recall, SHARE),
            **mean("background_removal", removal, SHARE),
            **parts,
            **mean("youden_j", balanced, (-1.0, 1.0)),
            **_sinks(read),
            **_blocks(read, geometry.depth),
        }


def _counts(fates: Tensor, foreground: Tensor) -> list[dict[str, Any]]:
    """Patches of each image by side and fate, from ``fates`` and ``foreground``, ``[B, P]``."""
    return [
        {
            side: {fate: int((own[mask] == at).sum()) for at, fate in enumerate(FATES)}
            for side, mask in zip(SIDES, (front, ~front), strict=True)
        }
        for own, front in zip(fates, foreground, strict=True)
    ]


def _on(foreground: Tensor, places: Tensor) -> list[list[bool | None]]:
    """Whether patches ``[B, n]`` lie on the foreground ``[B, P]``; None for no patch (-1)."""
    found = foreground.gather(1, places.clamp(min=0)).tolist()
    return [
        [on if at >= 0 else None for on, at in zip(*pair, strict=True)]
        for pair in zip(found, places.tolist(), strict=True)
    ]


def _size(row: Row, side: str) -> int:
    return sum(row[side].values())


def _share(row: Row, side: str, fate: str) -> float:
    return float(row[side][fate] / _size(row, side))


def _base(row: Row) -> float:
    """Share of the patches that is foreground."""
    return _size(row, "foreground") / sum(_size(row, side) for side in SIDES)


def _kept(row: Row) -> float:
    return sum(row[side]["kept"] for side in SIDES) / sum(_size(row, side) for side in SIDES)


def _sinks(read: Rows) -> dict[str, Any]:
    """Of a method that notes its sink; nothing for the others."""
    if not any("sink_on_foreground" in row for row in read):
        return {}
    rows = [row for row in read if row.get("sink_on_foreground") is not None]
    return {
        "sink_images": len(rows),
        **mean("sink_on_foreground", [float(row["sink_on_foreground"]) for row in rows], SHARE),
        "sink_base_rate": statistics.fmean(map(_base, rows)) if rows else None,
    }


def _blocks(read: Rows, depth: int) -> dict[str, Any]:
    """Of the watched unpruned model; nothing for the others."""
    names = [f"{kind}_on_foreground" for kind in ("heaviest", "cls")]
    here = [name for name in names if name in next(iter(read))]
    if not here:
        return {}
    return {
        "blocks": [
            {
                "block": block + 1,
                **{
                    key: value
                    for name in here
                    for key, value in mean(
                        name, [float(row[name][block]) for row in read], SHARE
                    ).items()
                },
            }
            for block in range(depth)
        ]
    }
