"""Work in the rows of any benchmark, and what all rows say of it: MACs, tokens left, firing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from asap_eval.errors import BadValueError, DataError
from asap_eval.hosts import Geometry
from asap_eval.record import Counted, Fired, Macs, Tokens
from asap_eval.record.journal import Row
from asap_eval.trace import Trace
from asap_eval.work.convention import CONVENTIONS
from asap_eval.work.macs import (
    attention_macs,
    model_macs,
    unpruned_attention_macs,
    unpruned_macs,
)

NO_WORK: dict[str, Any] = dict.fromkeys(
    ("fired", "tokens", "layer_mean", "model_macs", "attention_macs", "method_macs")
)
"""What a sample that could not be read has of `work_of`."""


def work_of(trace: Trace, geometry: Geometry) -> list[dict[str, Any]]:
    """The work's part of each image's row: its firing block (0 = never), patch and pooled tokens
    after the last block and on average over the blocks, the model's MACs, the two products of
    attention in them, and the method's own; ``counted`` where it counts something.
    """
    counted = counted_of(trace) or [{}] * len(trace.fired)
    values = zip(
        trace.fired.tolist(),
        (trace.lengths - geometry.prefix).T.tolist(),
        model_macs(geometry, trace).tolist(),
        attention_macs(geometry, trace).tolist(),
        trace.method_macs.tolist(),
        strict=True,
    )
    return [
        {
            "fired": fired,
            "tokens": lengths[-1],
            "layer_mean": sum(lengths) / len(lengths),
            "model_macs": own,
            "attention_macs": attention,
            "method_macs": method,
            **counts,
        }
        for (fired, lengths, own, attention, method), counts in zip(values, counted, strict=True)
    ]


def counted_of(trace: Trace) -> list[dict[str, dict[str, int]]]:
    """``counted`` of each sample's row, by name of `Reducer.tallies`; nothing where a method counts
    nothing."""
    counted = {name: values.tolist() for name, values in trace.counted.items()}
    each = [dict(zip(counted, one, strict=True)) for one in zip(*counted.values(), strict=True)]
    return [{"counted": one} for one in each]


def counted_block(says: Mapping[str, str], rows: Sequence[Row]) -> dict[str, Counted] | None:
    """The ``counted`` block of a record, from all its rows.

    Args:
        says: `Reducer.tallies`.
    """
    found = {}
    for name, words in says.items():
        each = [row["counted"][name] for row in rows if row["error"] is None]
        found[name] = Counted(words, sum(each), sum(map(bool, each)), len(each))
    return found or None


def readable(rows: Sequence[Row], what: str, done: str = "read") -> list[Row]:
    """Rows of the samples that could be read (or, in the error's words, ``done``).

    Raises:
        DataError: there is none.
    """
    read = [row for row in rows if row["error"] is None]
    if not read:
        raise DataError(
            f"None of the {len(rows)} {what} could be {done}; the first says: {rows[0]['error']}"
        )
    return read


def check_convention(geometry: Geometry, name: str) -> None:
    """Raise `BadValueError` where a convention rounds the whole work of a model away."""
    if CONVENTIONS[name].decimals is None:
        return
    if CONVENTIONS[name].change(1, _whole(geometry, name)) is None:
        raise BadValueError(
            f"macs_convention={name} divides GMACs with {CONVENTIONS[name].decimals} decimal, and "
            f"this model has {_whole(geometry, name) / 1e9:.3f}: use macs_convention=full."
        )


def macs_change(rows: Sequence[Row], geometry: Geometry, convention: str) -> list[float]:
    """Total change of the MACs of each readable sample in percent, the method's own included.

    Unrounded in every convention, because a knob is searched by it.
    """
    whole = _whole(geometry, convention)
    less = CONVENTIONS[convention].leaves_out_products(geometry)
    spent = (
        row["model_macs"] - (row["attention_macs"] if less else 0) + row["method_macs"]
        for row in rows
        if row["error"] is None
    )
    return [100 * (macs / whole - 1) for macs in spent]


def macs_block(read: Sequence[Row], geometry: Geometry, convention: str) -> Macs:
    """The ``macs`` block of a record, from the rows of readable samples."""
    block = _counted(read, geometry, convention)
    assert block is not None, "check_convention comes before the run"
    block.paper = _counted(read, geometry, "paper")
    return block


def _counted(read: Sequence[Row], geometry: Geometry, name: str) -> Macs | None:
    model, attention, method = (
        statistics.fmean(row[key] for row in read)
        for key in ("model_macs", "attention_macs", "method_macs")
    )
    convention, whole = CONVENTIONS[name], _whole(geometry, name)
    own = convention.counted(geometry, model, attention)
    both, alone = (convention.change(macs, whole) for macs in (own + method, own))
    if both is None or alone is None:
        return None
    return Macs(whole / 1e9, own / 1e9, method / 1e9, both, alone, name)


def _whole(geometry: Geometry, name: str) -> float:
    """MACs of the unpruned model that count."""
    macs, attention = unpruned_macs(geometry), unpruned_attention_macs(geometry)
    return CONVENTIONS[name].counted(geometry, macs, attention)


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
