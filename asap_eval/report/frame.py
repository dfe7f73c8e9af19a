"""Records as one flat pandas frame of numbers: one row per record, nothing rounded, no layout."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import cache
from typing import Any, cast

import pandas as pd

from asap_eval.data.named import short_name
from asap_eval.method import Reducer, methods
from asap_eval.options import options
from asap_eval.record import Job, RunRecord

FIELDS = {
    "model": "job.model",
    "bench": "job.bench",
    "data": "job.data",
    "data_name": "provenance.data.name",
    "n": "provenance.data.n",
    "ids_digest": "provenance.data.ids_digest",
    "content": "provenance.data.content",
    "weights": "provenance.weights.name",
    "weights_sha256": "provenance.weights.sha256",
    "trained": "provenance.weights.trained",
    "dtype": "job.dtype",
    "macs_convention": "job.macs_convention",
    "method": "job.method",
    "predictor": "provenance.method.trained",
    "seed": "job.seed",
    "budget": "job.budget.kind",
    "budget_count": "job.budget.count",
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
    "paper_pct": "macs.paper.reduction_pct",
    "paper_model_pct": "macs.paper.reduction_model_pct",
    "kept_min": "tokens.kept_min",
    "kept_median": "tokens.kept_median",
    "kept_mean": "tokens.kept_mean",
    "kept_max": "tokens.kept_max",
    "layer_mean": "tokens.layer_mean",
    "handed_to_llm": "tokens.handed_to_llm",
    "llm_layer_mean": "tokens.llm_layer_mean",
    "cached_entries": "tokens.cached_entries",
    "cached_pct": "tokens.cached_pct",
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
    "matched_videos_s": "speed.videos_s.matched.encoding",
    "method_videos_s": "speed.videos_s.method.encoding",
    "fused_decoded_s": "speed.videos_s.fused.decoding",
    "matched_decoded_s": "speed.videos_s.matched.decoding",
    "method_decoded_s": "speed.videos_s.method.decoding",
    "video_g": "analysis.macs_per_video_g.mean",
    "video_method_g": "analysis.macs_per_video_g.method",
    "batch_size": "job.batch_size",
    "device": "job.device",
    "status": "status",
    "error": "error",
    "command": "provenance.command",
    "key": "key",
}
"""Column of the frame: where a record holds it."""

PATHS = {column: tuple(path.split(".")) for column, path in FIELDS.items()}

GROUP = [
    "model",
    "model_params",
    "bench",
    "bench_params",
    "data",
    "ids_digest",
    "content",
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
    row = {column: _at(record, path) for column, path in PATHS.items()}
    changed = changed_options(record.job.method, record.job.params)
    if record.metrics is None and record.status == "done":
        row["failed"] = len(record.provenance.failures)
    return {
        **row,
        **_params(record),
        "data_name": row["data_name"] or short_name(record.job.data),
        "k": record.knob,
        "tasks": None if record.tasks is None else json.dumps(record.tasks),
        "analysis": None if record.analysis is None else json.dumps(record.analysis),
        "counted": _counted(record),
        "options": json.dumps(changed, sort_keys=True),
        "data_notes": " ".join(record.provenance.data.get("notes", ())),
    }


def _counted(record: RunRecord) -> str | None:
    """What a method counted, as JSON."""
    if record.counted is None:
        return None
    return json.dumps({name: asdict(found) for name, found in record.counted.items()})


def row_without_record(job: Job, why: str) -> dict[Hashable, Any]:
    """A row of the frame for a job that failed before there was a record."""
    asked = {column: path[1:] for column, path in PATHS.items() if path[0] == "job"}
    return {
        **dict.fromkeys(PATHS),
        **{column: _at(job, path) for column, path in asked.items()},
        "model_params": json.dumps(job.model_params, sort_keys=True),
        "bench_params": json.dumps(job.bench_params, sort_keys=True),
        "k": job.k,
        "tasks": None,
        "analysis": None,
        "counted": None,
        "options": json.dumps(changed_options(job.method, job.params), sort_keys=True),
        "data_notes": "",
        "random_top1": None,
        "below_random": False,
        "status": "failed",
        "error": why,
        "command": "",
    }


def comparable(record: RunRecord) -> tuple[str, ...]:
    """Equal for records that may stand in one table."""
    params = _params(record)
    known = (params[n] if n in params else _at(record, PATHS[n]) for n in GROUP)
    return tuple(map(str, known))


def _params(record: RunRecord) -> dict[str, str]:
    return {
        "model_params": json.dumps(record.job.model_params, sort_keys=True),
        "bench_params": json.dumps(record.job.bench_params, sort_keys=True),
    }


def _at(value: Any, path: Iterable[str]) -> Any:
    """What lies at a path of names, keys and positions; None where a step of it is missing."""
    for step in path:
        if is_dataclass(value):
            value = getattr(value, step)
        elif isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


def changed_options(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a row that differ from the method's defaults; all of an unknown method's."""
    cls = methods().get(method)
    same = _defaults(cast(Hashable, cls)) if cls else {}
    return {k: v for k, v in params.items() if k not in same or same[k] != v}


@cache
def _defaults(cls: Hashable) -> dict[str, Any]:
    """The options of a method's class as JSON holds them."""
    found = {name: default for name, _, default in options(cast(type[Reducer], cls))}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}


def _control(table: pd.DataFrame) -> list[float | None]:
    """Mean top-1 of the random controls that did each row's work."""
    names = [*GROUP, "method", "top1", "budget", "target", "reduction_pct"]
    rows = table[names].astype(object).where(table[names].notna(), None).to_dict("records")
    by_group: dict[tuple[Any, ...], list[dict[Any, Any]]] = defaultdict(list)
    for row in rows:
        if row["method"] == CONTROL and row["top1"] is not None:
            by_group[tuple(row[name] for name in GROUP)].append(row)
    known: dict[tuple[Any, ...], float | None] = {}
    means = []
    for row in rows:
        group = tuple(row[name] for name in GROUP)
        same = None if row["target"] else row["reduction_pct"]
        work = (*group, row["budget"], row["target"], same)
        if work not in known:
            known[work] = _mean_at_budget(by_group.get(group, ()), row)
        means.append(known[work])
    return means


def _mean_at_budget(controls: Sequence[Mapping[Any, Any]], row: Mapping[Any, Any]) -> float | None:
    """Mean top-1 of controls with the row's budget, or of those within `SAME_WORK` of its work."""

    def same(control: Mapping[Any, Any]) -> bool:
        if row["target"] is not None:
            named = (control["budget"], control["target"])
            return named == (row["budget"], row["target"])
        works = (control["reduction_pct"], row["reduction_pct"])
        return None not in works and abs(works[0] - works[1]) <= SAME_WORK

    found = [float(control["top1"]) for control in controls if same(control)]
    return statistics.fmean(found) if found else None
