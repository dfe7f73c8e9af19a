"""Work in the rows of any benchmark, and what all rows say of it: MACs, tokens left, firing."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Mapping
from typing import Any

from asap_eval.errors import BadValueError, DataError
from asap_eval.hosts import Geometry
from asap_eval.record import Counted, Fired, Macs, Tokens
from asap_eval.record.journal import Chosen, Row, Rows
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

Columns = Mapping[str, "array[Any]"]
"""Numbers of all rows by name, 8 bytes each where a row takes a thousand."""
MACS = dict.fromkeys(("model_macs", "attention_macs", "method_macs"), "d")
SLOTS = {"fired": "q", "tokens": "q", "layer_mean": "d"}
"""What of `work_of` is columns, and of which type: floating point, or whole numbers."""


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


def counted_block(says: Mapping[str, str], rows: Rows) -> dict[str, Counted] | None:
    """The ``counted`` block of a record, from all its rows, gone through once.

    Args:
        says: `Reducer.tallies`; without any nothing is read.
    """
    found = {name: Counted(words, 0, 0, 0) for name, words in says.items()}
    for row in filter(_is_read, rows if found else ()):
        for name, sums in found.items():
            number = row["counted"][name]
            sums.total += number
            sums.samples += number > 0
            sums.of += 1
    return found or None


def columns(rows: Rows, kinds: Mapping[str, str]) -> dict[str, array[Any]]:
    """Numbers of rows, gone through once.

    Args:
        kinds: names, and the type that `array` has for each. A row may have a list of them (of a
            video's frames, of a picture's crops): then all follow each other.
    """
    found: dict[str, array[Any]] = {name: array(kind) for name, kind in kinds.items()}
    for row in rows:
        for name, column in found.items():
            value = row[name]
            if isinstance(value, list):
                column.extend(value)
            else:
                column.append(value)
    return found


def readable(rows: Rows, what: str, done: str = "read") -> Rows:
    """Rows of the samples that could be read (or, in the error's words, ``done``).

    Raises:
        DataError: there is none.
    """
    read = sum(map(_is_read, rows))
    if not read:
        first = next(iter(rows))["error"]
        raise DataError(f"None of the {len(rows)} {what} could be {done}; the first says: {first}")
    return rows if read == len(rows) else Chosen(rows, _is_read, read)


def _is_read(row: Row) -> bool:
    return row["error"] is None


def check_convention(geometry: Geometry, name: str) -> None:
    """Raise `BadValueError` where a convention rounds the whole work of a model away."""
    if CONVENTIONS[name].decimals is None:
        return
    if CONVENTIONS[name].change(1, _whole(geometry, name)) is None:
        raise BadValueError(
            f"macs_convention={name} divides GMACs with {CONVENTIONS[name].decimals} decimal, and "
            f"this model has {_whole(geometry, name) / 1e9:.3f}: use macs_convention=full."
        )


def macs_change(rows: Rows, geometry: Geometry, convention: str) -> list[float]:
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


def macs_block(work: Columns, geometry: Geometry, convention: str) -> Macs:
    """The ``macs`` block of a record, from columns `MACS` of readable samples."""
    model, attention, method = (statistics.fmean(work[name]) for name in MACS)
    block = _counted(model, attention, method, geometry, convention)
    assert block is not None, "check_convention comes before the run"
    block.paper = _counted(model, attention, method, geometry, "paper")
    return block


def _counted(
    model: float, attention: float, method: float, geometry: Geometry, name: str
) -> Macs | None:
    """Means over samples as a convention counts them; None where it has no figure."""
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


def tokens_block(work: Columns) -> Tokens:
    """The ``tokens`` block of a record, from columns `SLOTS` of readable samples."""
    kept = work["tokens"]
    return Tokens(
        kept_min=min(kept),
        kept_median=float(statistics.median(kept)),
        kept_mean=statistics.fmean(kept),
        kept_max=max(kept),
        layer_mean=statistics.fmean(work["layer_mean"]),
    )


def fired_block(fired: array[int], depth: int) -> Fired:
    """The ``fired`` block of a record, from the blocks of readable samples (0 = never)."""
    blocks = array(fired.typecode, filter(None, fired))
    return Fired(
        mean=statistics.fmean(blocks) if blocks else None,
        min=min(blocks, default=None),
        max=max(blocks, default=None),
        never=len(fired) - len(blocks),
        histogram={str(block): blocks.count(block) for block in range(1, depth + 1)},
    )
