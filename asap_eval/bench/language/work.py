"""What rows of answered questions say together of tokens and work."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from asap_eval.bench.bench import Summary
from asap_eval.bench.language.rows import COUNTS, LISTS, PARTS
from asap_eval.hosts import LlavaGeometry
from asap_eval.record import Macs
from asap_eval.record.journal import Row
from asap_eval.work.rows import fired_block, tokens_block


def work_of(read: Sequence[Row], geometry: LlavaGeometry, convention: str) -> Summary:
    """What the rows of answered questions say of tokens and work."""
    crops = [
        dict(zip(LISTS, values, strict=True))
        for row in read
        for values in zip(*(row[name] for name in LISTS), strict=True)
    ]
    tokens = tokens_block(crops)
    tokens.handed_to_llm = _mean(read, "handed_to_llm")
    tokens.llm_layer_mean = _mean(read, "llm_layer_mean")
    fired = fired_block(crops, geometry.tower.depth)
    if any(row["language_fired"] for row in read):
        own = [{"fired": row["language_fired"]} for row in read]
        fired = fired_block(own, len(geometry.language.blocks))
    return Summary(
        macs=_macs(read, convention),
        tokens=tokens,
        fired=fired,
        analysis={
            "macs_by_part_g": _by_part(read),
            **{f"{name}_mean": _mean(read, name) for name in COUNTS[:3]},
            "crops_mean": len(crops) / len(read),
        },
    )


def _mean(read: Sequence[Row], name: str) -> float:
    return statistics.fmean(row[name] for row in read)


def _macs(read: Sequence[Row], convention: str) -> Macs:
    """Means over the questions, up to the first logits."""
    whole, own, method = (
        _mean(read, name) for name in ("unpruned_macs", "model_macs", "method_macs")
    )
    return Macs(
        baseline_g=whole / 1e9,
        mean_g=own / 1e9,
        method_g=method / 1e9,
        reduction_pct=100 * ((own + method) / whole - 1),
        reduction_model_pct=100 * (own / whole - 1),
        convention=convention,
    )


def _by_part(read: Sequence[Row]) -> dict[str, float]:
    found = {
        name: statistics.fmean(row["parts"][at] for row in read) for at, name in enumerate(PARTS)
    }
    found |= {"method": _mean(read, "method_macs"), "unpruned": _mean(read, "unpruned_macs")}
    return {name: value / 1e9 for name, value in found.items()}
