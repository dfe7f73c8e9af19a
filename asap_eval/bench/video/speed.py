"""Frames of videos in batches for a speed measurement, and what its rates mean for whole videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from asap_eval.data.videos.loader import VideoBatch
from asap_eval.errors import DataError
from asap_eval.timing.speed import Pixels


def full_batches(decoded: Sequence[VideoBatch], batch_size: int) -> list[Pixels]:
    """Readable frames, packed into full batches across videos; those left over are not used.

    Raises:
        DataError: fewer frames than one batch holds.
    """
    ids = [name for batch in decoded for name in batch.frame_ids]
    starts = range(0, len(ids) - batch_size + 1, batch_size)
    if not starts:
        raise DataError(
            f"Speed needs batch_size={batch_size} readable frames; the "
            f"{sum(len(batch.ids) for batch in decoded)} videos chosen for it have {len(ids)}."
        )
    pixels = torch.cat([batch.pixels for batch in decoded if len(batch.pixels)])
    return [Pixels(pixels[at : at + batch_size], tuple(ids[at : at + batch_size])) for at in starts]


def video_rates(speed: Mapping[str, Any], decoded: float, per_video: int) -> dict[str, Any]:
    """``decode_frames_s`` and ``videos_s`` of a ``speed`` block, see `Kinetics.rates`.

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
