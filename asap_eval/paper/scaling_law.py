"""Points of "Inference Optimal VLMs Need Fewer Visual Tokens and More Parameters" (Li et al.,
arXiv 2411.03312): models trained for a number of visual tokens, and what they score.

``tables/scaling_law.csv`` has the mean score over nine tasks, 0 to 1, for language models of so
many parameters (rows, in 10^9) and so many visual tokens (columns).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from asap_eval.paper.tables import FOLDER

SOURCE = "arXiv 2411.03312"

ALPHA, BETA = 0.077, 0.015
"""Printed exponents of parameters and of tokens, the best of a random fifth of a grid."""

OCR_ALPHA, OCR_BETA = 0.028, 0.039
"""Printed exponents of tasks that ask for text."""


@dataclass(frozen=True)
class Point:
    """One trained model: parameters of its language model in 10^9, visual tokens, mean score."""

    parameters: float
    tokens: int
    score: float


@cache
def points() -> tuple[Point, ...]:
    """All 28 of them, as printed."""
    with (FOLDER / "scaling_law.csv").open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    return tuple(
        Point(float(row["parameters_b"]), int(tokens), float(score))
        for row in rows
        for tokens, score in row.items()
        if tokens != "parameters_b"
    )
