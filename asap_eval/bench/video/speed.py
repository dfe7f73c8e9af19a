"""Frames decoded for a speed measurement, and what its rates mean for whole videos."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asap_eval.data.videos.loader import VideoBatch
from asap_eval.errors import DataError
from asap_eval.timing.speed import Pixels


@dataclass(frozen=True)
class Decoded:
    """Frames of real videos.

    Attributes:
        pixels: ``[n, 3, H, W]``. ids: of each. videos: that were decoded. seconds: it took.
    """

    pixels: Tensor
    ids: list[str]
    videos: int
    seconds: float

    @property
    def frames_s(self) -> float:
        """Frames read, resized and normalised in a second."""
        return len(self.ids) / self.seconds

    def passes(self, batch_size: int, like: Tensor) -> list[Pixels]:
        """Full batches with the device and type of a parameter.

        Raises:
            DataError: fewer frames than one batch holds.
        """
        starts = range(0, len(self.ids) - batch_size + 1, batch_size)
        if not starts:
            raise DataError(
                f"Speed needs batch_size={batch_size} readable frames; the {self.videos} videos "
                f"chosen for it have {len(self.ids)}."
            )
        return [
            Pixels(
                self.pixels[at : at + batch_size].to(like.device, like.dtype),
                tuple(self.ids[at : at + batch_size]),
            )
            for at in starts
        ]


def decoded_frames(batches: Iterator[VideoBatch]) -> Decoded:
    """All frames of some batches, and how long decoding them took in this process."""
    begin = time.perf_counter()
    held = list(batches)
    seconds = time.perf_counter() - begin
    pixels = [batch.pixels for batch in held if len(batch.pixels)]
    return Decoded(
        torch.cat(pixels) if pixels else torch.empty(0, 3, 0, 0),
        [name for batch in held for name in batch.frame_ids],
        sum(len(batch.ids) for batch in held),
        seconds,
    )


def video_rates(speed: Mapping[str, Any], decoded: float, per_video: int) -> dict[str, Any]:
    """``decode_frames_s`` and ``videos_s`` of a ``speed`` block, see `Kinetics.speed`.

    Args:
        speed: the block so far; its images are frames. decoded: frames a second.
    """
    rates = {name: speed[f"{name}_img_s"] for name in ("fused", "matched", "method")}
    return {
        "decode_frames_s": decoded,
        "videos_s": {
            name: {
                "encoding": rate / per_video,
                "decoding": 1 / (1 / rate + 1 / decoded) / per_video,
            }
            for name, rate in rates.items()
        },
    }
