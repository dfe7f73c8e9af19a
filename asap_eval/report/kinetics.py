"""Layout of ``bench=kinetics``: accuracy by video; an image is a frame."""

from __future__ import annotations

import json

from asap_eval.report.accuracy import ACCURACY
from asap_eval.report.columns import Column, Row, number, numbers, present
from asap_eval.report.render import DASH


def _per_video(row: Row) -> str:
    if not present(row["analysis"]):
        return DASH
    work = json.loads(row["analysis"])["macs_per_video_g"]
    return f"{work['mean']:.2f} + {work['method']:.2f}"


def _rates(row: Row) -> str:
    return numbers(row, "{:.1f} / {:.1f} / {:.1f}", "fused_img_s", "matched_img_s", "method_img_s")


AFTER = {
    "top-1 %": [Column("top-5 %", lambda row: number(row["top5"], "{:.2f}"))],
    "GMACs: model + own": [Column("GMACs per video: model + own", _per_video)],
}
"""Columns by the head of the one they follow."""

OWN = {
    "GMACs: model + own": "GMACs per frame: model + own",
    "kept: min / median / mean / max": "kept of a frame: min / median / mean / max",
}
"""Heads that say what an image is here."""

SPEED = [
    Column("frames/s: fused / matched / method", _rates),
    Column(
        "videos/s encoded: fused / method",
        lambda row: numbers(row, "{:.2f} / {:.2f}", "fused_videos_s", "method_videos_s"),
    ),
    Column(
        "videos/s decoded and encoded: fused / method",
        lambda row: numbers(row, "{:.2f} / {:.2f}", "fused_decoded_s", "method_decoded_s"),
    ),
    Column("frames/s decoded", lambda row: number(row["decode_frames_s"], "{:.1f}")),
]

KINETICS: list[Column] = []
for _column in ACCURACY:
    if _column.head.startswith("img/s"):
        KINETICS += SPEED
    else:
        KINETICS.append(Column(OWN.get(_column.head, _column.head), _column.cell))
        KINETICS += AFTER.get(_column.head, [])
