"""Where a record holds what a column of the paper's tables prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asap_eval.paper.columns import BENCHMARKS, MME_TO_PERCENT, TASKS
from asap_eval.record import RunRecord

Value = Callable[[RunRecord], float | None]
Interval = Callable[[RunRecord], Sequence[float] | None]


@dataclass(frozen=True)
class Measure:
    """A figure of a record, and its interval where it has one (95 %; speeds: p10 to p90)."""

    value: Value
    interval: Interval = lambda record: None


def _block(part: Callable[[RunRecord], Any], get: Callable[[Any], Any]) -> Callable[..., Any]:
    """A figure of a block that a record may lack."""
    return lambda record: None if (found := part(record)) is None else get(found)


def _speedup(record: RunRecord) -> Mapping[str, float] | None:
    return (record.speed or {}).get("speedup")


def _median(phase: str) -> Value:
    return lambda record: (record.latency_ms or {}).get(phase, {}).get("median")


def _peak(record: RunRecord) -> float | None:
    return max(record.memory_gb.values(), default=None) if record.memory_gb else None


def _task(column: str, key: str) -> Callable[[RunRecord], Any]:
    return lambda record: (record.tasks or {}).get(TASKS[column], {}).get(key)


def _average(key: str, columns: Sequence[str]) -> Value:
    """Mean over all benchmarks of a table; None where one is missing: another mean otherwise."""

    def mean(record: RunRecord) -> float | None:
        names = [column for column in BENCHMARKS if column in columns]
        scores = [_task(column, key)(record) for column in names]
        if not names or None in scores:
            return None
        scaled = [
            s * (MME_TO_PERCENT if n == "mme" else 1) for n, s in zip(names, scores, strict=True)
        ]
        return float(sum(scaled) / len(scaled))

    return mean


def _relative(columns: Sequence[str]) -> Value:
    """As the paper has it: both averages rounded to one decimal before they are divided."""

    def ratio(record: RunRecord) -> float | None:
        after, before = (_average(key, columns)(record) for key in ("score", "baseline"))
        return None if after is None or not before else 100 * round(after, 1) / round(before, 1)

    return ratio


def measures(columns: Sequence[str]) -> dict[str, Measure]:
    """How each column of a table is measured."""
    change = _block(_speedup, lambda s: [100 * (s[name] - 1) for name in ("p10", "p90")])
    known = {
        "baseline_acc": Measure(_block(lambda r: r.baseline, lambda b: b.top1)),
        "acc": Measure(_block(lambda r: r.metrics, lambda m: m.top1)),
        "acc_delta": Measure(
            _block(lambda r: r.paired, lambda p: p.delta_top1),
            _block(lambda r: r.paired, lambda p: p.ci95),
        ),
        "flops_delta_pct": Measure(
            _block(lambda r: r.macs, lambda m: m.reduction_pct),
            _block(lambda r: r.provenance.calibration, lambda c: c.evaluated_ci95),
        ),
        "throughput_delta_pct": Measure(
            _block(_speedup, lambda s: 100 * (s["median"] - 1)), change
        ),
        "flops_g": Measure(_block(lambda r: r.macs, lambda m: m.mean_g + m.method_g)),
        "throughput_img_s": Measure(_block(lambda r: r.speed, lambda s: s["method_img_s"])),
        "tokens": Measure(_block(lambda r: r.tokens, lambda t: t.handed_to_llm)),
        "inference_ms": Measure(_median("answer")),
        "prefill_ms": Measure(_median("prefill")),
        "cuda_ms": Measure(_median("prefill")),
        "flops_t": Measure(_block(lambda r: r.macs, lambda m: 2 * (m.mean_g + m.method_g) / 1000)),
        "gpu_memory_gb": Measure(_peak),
        "avg": Measure(_average("score", columns)),
        "rel_pct": Measure(_relative(columns)),
        "avg_rel_pct": Measure(_relative(columns)),
        **{column: Measure(_task(column, "score")) for column in TASKS},
    }
    return {column: known[column] for column in columns}
