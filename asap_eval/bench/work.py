"""What rows of any benchmark say about work: MACs, tokens left, blocks that fired."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from asap_eval.bench.macs import model_macs, unpruned_macs
from asap_eval.hosts import Geometry
from asap_eval.journal import Row
from asap_eval.record import Fired, Macs, Tokens
from asap_eval.trace import Trace

NO_WORK: dict[str, Any] = dict.fromkeys(
    ("fired", "tokens", "layer_mean", "model_macs", "method_macs")
)
"""What a sample that could not be read has of `work_of`."""


def work_of(trace: Trace, geometry: Geometry) -> list[dict[str, Any]]:
    """The work's part of each image's row: its firing block (0 = never), patch and pooled tokens
    after the last block and on average over the blocks, the model's MACs and the method's own.
    """
    values = zip(
        trace.fired.tolist(),
        (trace.lengths - geometry.prefix).T.tolist(),
        model_macs(geometry, trace).tolist(),
        trace.method_macs.tolist(),
        strict=True,
    )
    return [
        {
            "fired": fired,
            "tokens": lengths[-1],
            "layer_mean": sum(lengths) / len(lengths),
            "model_macs": own,
            "method_macs": method,
        }
        for fired, lengths, own, method in values
    ]


def macs_change(rows: Sequence[Row], geometry: Geometry) -> list[float]:
    """Total change of the MACs of each readable sample in percent, the method's own included."""
    whole = unpruned_macs(geometry)
    return [
        100 * ((row["model_macs"] + row["method_macs"]) / whole - 1)
        for row in rows
        if row["error"] is None
    ]


def macs_block(read: Sequence[Row], geometry: Geometry, convention: str) -> Macs:
    """The ``macs`` block of a record, from the rows of readable samples."""
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


def tokens_block(read: Sequence[Row]) -> Tokens:
    """The ``tokens`` block of a record, from the rows of readable samples."""
    kept = [row["tokens"] for row in read]
    return Tokens(
        kept_min=min(kept),
        kept_median=float(statistics.median(kept)),
        kept_mean=statistics.fmean(kept),
        kept_max=max(kept),
        layer_mean=statistics.fmean(row["layer_mean"] for row in read),
    )


def fired_block(read: Sequence[Row], depth: int) -> Fired:
    """The ``fired`` block of a record, from the rows of readable samples."""
    blocks = [row["fired"] for row in read if row["fired"]]
    return Fired(
        mean=statistics.fmean(blocks) if blocks else None,
        min=min(blocks, default=None),
        max=max(blocks, default=None),
        never=len(read) - len(blocks),
        histogram={str(block): blocks.count(block) for block in range(1, depth + 1)},
    )
