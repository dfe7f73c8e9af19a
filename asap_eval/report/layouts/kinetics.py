"""Layout of ``bench=kinetics``: accuracy by video; an image is a frame."""

from __future__ import annotations

from dataclasses import replace

from asap_eval.report.layouts.accuracy import ACCURACY
from asap_eval.report.layouts.columns import Column, Row, number, numbers

CONTENDERS = "fused", "matched", "method"


def _rates(head: str, form: str, field: str) -> Column:
    """Rates of all contenders; ``field`` is the frame's column of one."""

    def cell(row: Row) -> str:
        return numbers(row, " / ".join([form] * 3), *(field.format(name) for name in CONTENDERS))

    return Column(f"{head}: {' / '.join(CONTENDERS)}", cell, wide=True)


AFTER = {
    "top-1 %": [Column("top-5 %", lambda row: number(row["top5"], "{:.2f}"), wide=True)],
    "GMACs: model + own": [
        Column(
            "GMACs per video: model + own",
            lambda row: numbers(row, "{:.2f} + {:.2f}", "video_g", "video_method_g"),
            wide=True,
        )
    ],
}
"""Columns by the head of the one they follow."""

OWN = {
    "GMACs: model + own": "GMACs per frame: model + own",
    "kept: min / median / mean / max": "kept of a frame: min / median / mean / max",
}
"""Heads that say what an image is here."""

SPEED = [
    _rates("frames/s encoded", "{:.1f}", "{}_img_s"),
    _rates("videos/s encoded", "{:.2f}", "{}_videos_s"),
    _rates("videos/s decoded and encoded", "{:.2f}", "{}_decoded_s"),
    Column("frames/s decoded", lambda row: number(row["decode_frames_s"], "{:.1f}"), wide=True),
]

KINETICS: list[Column] = []
for _column in ACCURACY:
    if _column.head.startswith("img/s"):
        KINETICS += SPEED
    else:
        KINETICS.append(replace(_column, head=OWN.get(_column.head, _column.head)))
        KINETICS += AFTER.get(_column.head, [])
