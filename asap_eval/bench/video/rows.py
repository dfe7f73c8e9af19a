"""What a run on videos writes down: a row for each, and what all rows mean together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from asap_eval.bench.accuracy import accuracy
from asap_eval.bench.bench import Summary
from asap_eval.data.videos.loader import VideoBatch
from asap_eval.data.videos.sampling import Sampling
from asap_eval.hosts import Geometry
from asap_eval.models.video_head import Head
from asap_eval.record.journal import Row, Rows
from asap_eval.work.rows import (
    MACS,
    NO_WORK,
    SLOTS,
    columns,
    fired_block,
    macs_block,
    readable,
    tokens_block,
)

LISTS = tuple(SLOTS)
"""What of a frame's work a row lists frame by frame."""
MEANS = tuple(MACS)
"""What of it a row has as the mean over its frames."""


def rows_of(
    batch: VideoBatch, scores: Tensor, work: Sequence[dict[str, Any]], per_video: int
) -> list[Row]:
    """Rows of all videos of a batch.

    Args:
        scores: ``[b, C]`` of the readable videos. work: of their frames, ``per_video`` each.
    """
    rows: list[Row] = []
    found = 0
    for at, name, label in zip(batch.indices, batch.ids, batch.labels, strict=True):
        if at in batch.failures:
            wrong = {"label": label, "prediction": None, "correct": False, "top5": False}
            lost = {**wrong, "distinct": None, **NO_WORK}
            rows.append({"id": name, **lost, "error": batch.failures[at]})
            continue
        row = scores[found]
        best = row.topk(min(5, len(row))).indices.tolist()
        own = work[found * per_video : (found + 1) * per_video]
        rows.append(
            {
                "id": name,
                "label": label,
                "prediction": best[0],
                "correct": best[0] == label,
                "top5": label in best if len(row) >= 5 else None,
                "distinct": batch.distinct[found],
                **{key: [frame[key] for frame in own] for key in LISTS},
                **{key: statistics.fmean(frame[key] for frame in own) for key in MEANS},
                **_counted(own),
                "error": None,
            }
        )
        found += 1
    return rows


def _counted(own: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``counted`` of a video, the sum over its frames; nothing where the method counts nothing."""
    names = own[0].get("counted", {})
    found = {name: sum(frame["counted"][name] for frame in own) for name in names}
    return {"counted": found} if found else {}


def summary_of(
    rows: Rows, geometry: Geometry, convention: str, sampling: Sampling, head: Head
) -> Summary:
    """What the rows of all videos say together; ``analysis`` is described in `kinetics`.

    Raises:
        DataError: not one video could be read.
    """
    read = readable(rows, "videos")
    work = columns(read, {**MACS, **SLOTS})
    macs = macs_block(work, geometry, convention)
    own, count = sampling.inputs * head.weight.numel() / 1e9, sampling.per_video
    wanted = len(sampling.shares)
    return Summary(
        macs=macs,
        tokens=tokens_block(work),
        fired=fired_block(work["fired"], geometry.depth),
        metrics=accuracy(rows),
        analysis={
            "frames_per_video": count,
            "macs_per_video_g": {
                "baseline": count * macs.baseline_g + own,
                "mean": count * macs.mean_g + own,
                "method": count * macs.method_g,
            },
            "short_videos": sum(row["distinct"] < wanted for row in read),
            "head": {"sha256": head.sha256, **head.about},
        },
    )
