"""How far each number of a job moved between two folders, and whether noise explains it.

Where both runs kept their samples, these are compared one by one, of a vision-language task its
questions: McNemar's exact p for what is right or wrong, a paired interval for the rest. Elsewhere
the interval of the difference is put together from the two runs' own intervals as if they were
independent (Newcombe's square-and-add rule); on equal samples that is too wide rather than too
narrow. A number without an interval cannot be told from noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from asap_eval.record import RunRecord
from asap_eval.report.diff.tasks import task_change
from asap_eval.statistics import P, mean_interval, paired, share_interval, square_and_add

Verdict = Literal["beyond noise", "within noise", "cannot tell"]
BEYOND: Final = "beyond noise"
WITHIN: Final = "within noise"
UNKNOWN: Final = "cannot tell"

EQUAL = 1e-9
"""Relative difference up to which two numbers are equal: a sum in another order moves as much."""

Samples = Mapping[str, Mapping[str, Any]]
"""Rows of a per-sample file by id."""

FLAGS = {"top-1 %": "correct", "top-5 %": "top5"}
"""Shares of right samples, and the key of a sample's row that says whether it is right."""
MEANS = {
    "GMACs, model": ("model_macs", 1e-9),
    "GMACs, method's own": ("method_macs", 1e-9),
    "tokens kept, mean": ("tokens", 1.0),
    "tokens over blocks, mean": ("layer_mean", 1.0),
}
"""Means over samples: the key of a sample's row, and the factor from its unit to the number's."""


@dataclass(frozen=True)
class Estimate:
    """A number and the interval it lies in; None where the record gives no interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Move:
    """One number that is not the same in both runs.

    Attributes:
        name: with its unit. before, after: in A and in B. low, high: 95 % interval of after −
            before, None = none. p: McNemar's. basis: what the verdict rests on.
    """

    name: str
    before: float
    after: float
    low: float | None
    high: float | None
    p: float | None
    basis: str
    verdict: Verdict


def moves(a: RunRecord, b: RunRecord, a_rows: Samples | None, b_rows: Samples | None) -> list[Move]:
    """Every number of a job that moved from one record to the other.

    Args:
        a_rows, b_rows: their samples by id; None where a run kept none.
    """
    before, after = dict(_numbers(a)), dict(_numbers(b))
    found = []
    for name in before:
        if name not in after or _same(before[name].value, after[name].value):
            continue
        move = None
        if a_rows is not None and b_rows is not None:
            move = _paired(name, before[name].value, after[name].value, a_rows, b_rows)
        found.append(move or _unpaired(name, before[name], after[name], a, b))
    return found


def _paired(name: str, before: float, after: float, a: Samples, b: Samples) -> Move | None:
    """Sample by sample; None where the samples are not the same or do not hold this number."""
    change = task_change(name, a, b)
    if change is not None:
        low, high, p, questions = change
        verdict: Verdict = _verdict(low, high) if p is None else BEYOND if p < P else WITHIN
        return Move(name, before, after, low, high, p, f"{questions} questions, paired", verdict)
    if set(a) != set(b):
        return None
    if name in FLAGS:
        right = [(a[i].get(FLAGS[name]), b[i].get(FLAGS[name])) for i in sorted(a)]
        if any(value is None for pair in right for value in pair):
            return None
        found = paired([bool(x) for x, _ in right], [bool(y) for _, y in right])
        verdict = BEYOND if found.mcnemar_p < P else WITHIN
        basis = f"{len(right)} samples, paired"
        return Move(name, before, after, *found.ci95, found.mcnemar_p, basis, verdict)
    if name not in MEANS:
        return None
    key, factor = MEANS[name]
    pairs = [(a[i].get(key), b[i].get(key)) for i in sorted(a)]
    changes = [factor * (y - x) for x, y in pairs if x is not None and y is not None]
    if not changes:
        return None
    bounds = mean_interval(changes)
    if bounds is None:
        return Move(name, before, after, None, None, None, "one sample", UNKNOWN)
    basis = f"{len(changes)} samples, paired"
    return Move(name, before, after, *bounds, None, basis, _verdict(*bounds))


def _unpaired(name: str, x: Estimate, y: Estimate, a: RunRecord, b: RunRecord) -> Move:
    timed = name.startswith(TIMED)
    if timed and a.provenance.machine != b.provenance.machine:
        return Move(name, x.value, y.value, None, None, None, "other machine", UNKNOWN)
    if x.low is None or x.high is None or y.low is None or y.high is None:
        return Move(name, x.value, y.value, None, None, None, "no interval", UNKNOWN)
    low, high = square_and_add((x.value, x.low, x.high), (y.value, y.low, y.high))
    basis = "10 % to 90 % of the rounds" if timed else "two intervals"
    return Move(name, x.value, y.value, low, high, None, basis, _verdict(low, high))


def _verdict(low: float, high: float) -> Verdict:
    return WITHIN if low <= 0 <= high else BEYOND


def _same(x: float, y: float) -> bool:
    return math.isclose(x, y, rel_tol=EQUAL, abs_tol=1e-12)


TIMED = ("speed-up", "ms, ")
"""How the names of numbers begin that can be compared on one machine only."""


def _numbers(record: RunRecord) -> Iterator[tuple[str, Estimate]]:
    """All numbers of a record that may be compared, with their intervals."""
    if record.metrics is not None:
        yield "top-1 %", _share(record.metrics.top1, record.metrics.n)
        if record.metrics.top5 is not None:
            yield "top-5 %", _share(record.metrics.top5, record.metrics.n)
        yield "failed samples", Estimate(float(record.metrics.failed))
    for task, found in sorted((record.tasks or {}).items()):
        for metric, value in found.items():
            if _is_number(value):
                yield f"{task}: {metric}", Estimate(float(value))
    if record.macs is not None:
        yield "GMACs, model", Estimate(record.macs.mean_g)
        yield "GMACs, method's own", Estimate(record.macs.method_g)
    if record.tokens is not None:
        yield "tokens kept, mean", Estimate(record.tokens.kept_mean)
        yield "tokens over blocks, mean", Estimate(record.tokens.layer_mean)
        if record.tokens.llm_layer_mean is not None:
            yield "tokens over the language model's layers", Estimate(record.tokens.llm_layer_mean)
        if record.tokens.cached_pct is not None:
            yield "KV-cache entries, % of unpruned", Estimate(record.tokens.cached_pct)
    if record.provenance.calibration is not None:
        yield "knob found by the budget", Estimate(record.provenance.calibration.knob)
    if record.speed is not None and isinstance(record.speed.get("speedup"), Mapping):
        yield "speed-up", _spread(record.speed["speedup"])
    for phase, times in (record.latency_ms or {}).items():
        yield f"ms, {phase}", _spread(times)
    for phase, peak in (record.memory_gb or {}).items():
        yield f"GB, {phase}", Estimate(peak)
    yield from _analysis(record.analysis or {}, "")


def _share(percent: float, n: int) -> Estimate:
    low, high = share_interval(round(percent * n / 100), n, "wilson")
    return Estimate(percent, 100 * low, 100 * high)


def _spread(found: Mapping[str, float]) -> Estimate:
    return Estimate(found["median"], found.get("p10"), found.get("p90"))


def _analysis(value: Any, name: str, bounds: Any = None) -> Iterator[tuple[str, Estimate]]:
    """Numbers of nested blocks and lists; ``<name>_ci95`` beside ``<name>`` is its interval."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not str(key).endswith("_ci95"):
                yield from _analysis(inner, f"{name} {key}".strip(), value.get(f"{key}_ci95"))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for at, inner in enumerate(value):
            one = bounds[at] if isinstance(bounds, Sequence) and at < len(bounds) else None
            yield from _analysis(inner, f"{name} [{at + 1}]", one)
    elif _is_number(value):
        known = isinstance(bounds, Sequence) and len(bounds) == 2 and all(map(_is_number, bounds))
        yield name, Estimate(float(value), *(map(float, bounds) if known else ()))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
