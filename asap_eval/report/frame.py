"""Records as one flat pandas frame of numbers: one row per record, nothing rounded, no layout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from asap_eval.method import methods
from asap_eval.options import options
from asap_eval.record import RunRecord

FIELDS = {
    "model": "job.model",
    "bench": "job.bench",
    "data": "job.data",
    "n": "provenance.data.n",
    "ids_digest": "provenance.data.ids_digest",
    "weights": "provenance.weights.name",
    "weights_sha256": "provenance.weights.sha256",
    "trained": "provenance.weights.trained",
    "dtype": "job.dtype",
    "macs_convention": "job.macs_convention",
    "method": "job.method",
    "predictor": "provenance.method.trained",
    "seed": "job.seed",
    "budget": "job.budget.kind",
    "target": "job.budget.target",
    "budget_evaluated": "provenance.calibration.evaluated",
    "budget_low": "provenance.calibration.evaluated_ci95.0",
    "budget_high": "provenance.calibration.evaluated_ci95.1",
    "top1": "metrics.top1",
    "top5": "metrics.top5",
    "failed": "metrics.failed",
    "delta_top1": "paired.delta_top1",
    "delta_low": "paired.ci95.0",
    "delta_high": "paired.ci95.1",
    "mcnemar_p": "paired.mcnemar_p",
    "baseline_g": "macs.baseline_g",
    "mean_g": "macs.mean_g",
    "method_g": "macs.method_g",
    "reduction_pct": "macs.reduction_pct",
    "reduction_model_pct": "macs.reduction_model_pct",
    "kept_min": "tokens.kept_min",
    "kept_median": "tokens.kept_median",
    "kept_mean": "tokens.kept_mean",
    "kept_max": "tokens.kept_max",
    "layer_mean": "tokens.layer_mean",
    "handed_to_llm": "tokens.handed_to_llm",
    "llm_layer_mean": "tokens.llm_layer_mean",
    "fired_mean": "fired.mean",
    "fired_never": "fired.never",
    "fused_img_s": "speed.fused_img_s",
    "matched_img_s": "speed.matched_img_s",
    "method_img_s": "speed.method_img_s",
    "speedup": "speed.speedup.median",
    "speedup_p10": "speed.speedup.p10",
    "speedup_p90": "speed.speedup.p90",
    "share_of_ideal": "speed.share_of_ideal",
    "answer_speedup": "speed.answer_speedup.median",
    "answer_speedup_p10": "speed.answer_speedup.p10",
    "answer_speedup_p90": "speed.answer_speedup.p90",
    "encode_ms": "latency_ms.encode.median",
    "prefill_ms": "latency_ms.prefill.median",
    "answer_ms": "latency_ms.answer.median",
    "answer_p10": "latency_ms.answer.p10",
    "answer_p90": "latency_ms.answer.p90",
    "weights_gb": "memory_gb.weights",
    "prefill_gb": "memory_gb.prefill",
    "answer_gb": "memory_gb.answer",
    "decode_frames_s": "speed.decode_frames_s",
    "fused_videos_s": "speed.videos_s.fused.encoding",
    "method_videos_s": "speed.videos_s.method.encoding",
    "fused_decoded_s": "speed.videos_s.fused.decoding",
    "method_decoded_s": "speed.videos_s.method.decoding",
    "batch_size": "job.batch_size",
    "device": "job.device",
    "status": "status",
    "error": "error",
    "command": "provenance.command",
    "key": "key",
}
"""Column of the frame: where a record holds it."""

GROUP = [
    "model",
    "model_params",
    "bench",
    "bench_params",
    "data",
    "ids_digest",
    "weights_sha256",
    "dtype",
    "macs_convention",
]
"""What is equal for all rows that may be compared, and so stand in one table."""

CONTROL = "random"
SAME_WORK = 0.5
"""Percentage points of MACs within which two rows without a named budget have the same one."""


def frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """All records (at least one), in an order that depends on their content alone.

    In a group the unpruned model comes first, then rows by budget, method, options and seed. Two
    columns are added: ``random_top1``, the mean over the random controls of the same group at the
    same budget, and ``below_random``.
    """
    table = pd.DataFrame([_row(record) for record in records]).convert_dtypes()
    # A column that no record fills has no type of its own, and these are compared below.
    table = table.astype(dict.fromkeys(("top1", "target", "reduction_pct", "k"), "Float64"))
    table["pruned"] = table["method"] != "none"
    order = [*GROUP, "pruned", "target", "method", "options", "k", "seed", "key"]
    table = table.sort_values(order, ascending=True, ignore_index=True, na_position="first")
    table["random_top1"] = pd.Series(_control(table), dtype="Float64")
    below = table["top1"] < table["random_top1"]
    table["below_random"] = below.fillna(False) & (table["method"] != CONTROL) & table["pruned"]
    return table.drop(columns="pruned")


def _row(record: RunRecord) -> dict[str, Any]:
    body = dataclasses.asdict(record)
    row = {column: _at(body, path.split(".")) for column, path in FIELDS.items()}
    changed = changed_options(record.job.method, record.job.params)
    if record.metrics is None and record.status == "done":
        row["failed"] = len(record.provenance.failures)
    return {
        **row,
        "model_params": json.dumps(record.job.model_params, sort_keys=True),
        "bench_params": json.dumps(record.job.bench_params, sort_keys=True),
        "k": record.knob,
        "tasks": None if record.tasks is None else json.dumps(record.tasks),
        "analysis": None if record.analysis is None else json.dumps(record.analysis),
        "options": json.dumps(changed, sort_keys=True),
    }


def comparable(record: RunRecord) -> tuple[str, ...]:
    """Equal for records that may stand in one table."""
    row = _row(record)
    return tuple(str(row[name]) for name in GROUP)


def _at(value: Any, path: Iterable[str]) -> Any:
    """What lies at a path of keys and positions; None where a step of it is missing."""
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


def changed_options(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a row that differ from the method's defaults; all of an unknown method's."""
    cls = methods().get(method)
    defaults = {name: default for name, _, default in options(cls)} if cls else {}
    same = {name: list(v) if isinstance(v, tuple) else v for name, v in defaults.items()}
    return {k: v for k, v in params.items() if k not in same or same[k] != v}


def _control(table: pd.DataFrame) -> list[float | None]:
    """Mean top-1 of the random controls that did each row's work."""
    controls = table[(table["method"] == CONTROL) & table["top1"].notna()]
    by_group = dict(iter(controls.groupby(GROUP, dropna=False)))
    means: list[float | None] = []
    for _, row in table.iterrows():
        rivals = by_group.get(tuple(row[GROUP]))
        means.append(None if rivals is None else _mean_at_budget(rivals, row))
    return means


def _mean_at_budget(controls: pd.DataFrame, row: pd.Series[Any]) -> float | None:
    """Mean top-1 of controls with the row's budget, or of those within `SAME_WORK` of its work."""
    named = (controls["budget"] == row["budget"]) & (controls["target"] == row["target"])
    if pd.isna(row["target"]):
        named = (controls["reduction_pct"] - row["reduction_pct"]).abs() <= SAME_WORK
    same = controls["top1"][named.fillna(False)]
    return float(same.mean()) if len(same) else None
