"""Meeting a budget: the knob is searched on a few samples, then judged on the evaluated ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from asap_eval.bench.bench import AnyBench
from asap_eval.bench.first_samples import FirstSamples
from asap_eval.errors import BudgetError, UnreachableError
from asap_eval.method import Reducer
from asap_eval.record import Calibration, Job, ids_digest
from asap_eval.record.journal import Rows
from asap_eval.runner.knob_search import TOLERANCE, Found, ends, search, whole_knob
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.progress import bar, say, warn
from asap_eval.runner.widen import advice
from asap_eval.statistics import mean_interval

UNITS = {"macs": "%", "tokens": "tokens"}
"""Unit in which each kind of budget counts."""
LOOKS = 4
"""So often a knob found on the first batch is looked at on all samples."""


def calibrate(ready: Prepared, workers: int = 0) -> Calibration:
    """The knob that meets a job's budget on its calibration subset.

    Raises:
        BudgetError: no knob meets it (with the reachable range), or no image can be read.
    """
    job = ready.job
    assert job.budget is not None
    samples, disjoint = ready.samples.calibration(job.budget.samples)
    name, unit = ready.knob_name, UNITS[job.budget.kind]
    what = "% MACs" if job.budget.kind == "macs" else f"{unit} ({job.budget.count})"
    say(
        f"Searching {name} of {job.method} for {job.budget.target:g} {what} on {len(samples)} "
        f"samples{'' if disjoint else ' of the evaluated ones: no others are left'}."
    )
    # Decoded once: the search runs over the first of them ten to twenty times.
    batches = list(
        ready.bench.batches(ready.loaded, samples, batch_size=job.batch_size, workers=workers)
    )
    with bar(f"budget {job.method}", None) as advance:
        spending = _Spending(ready, batches, lambda: advance(1))
        found = _led(spending) or _searched_on_all(spending)
    say(f"Found {name}={found.knob:.6g}: {found.reached:.2f} {what}.")
    if found.note:
        warn(found.note)
    return Calibration(
        knob=found.knob,
        reached=found.reached,
        range=[found.low, found.high],
        samples=len(samples),
        ids_digest=ids_digest(samples.ids),
        disjoint=disjoint,
        evaluations=found.evaluations,
        note=found.note,
    )


class _Spending:
    """What a budget counts of some samples, by the knob; no knob is tried twice.

    Attributes:
        seen: by the knob, the value of each sample.
    """

    def __init__(
        self, ready: Prepared, batches: Sequence[object], tried: Callable[[], None]
    ) -> None:
        self.ready, self.batches, self.tried = ready, batches, tried
        self.seen: dict[float, list[float]] = {}

    def values(self, knob: float) -> list[float]:
        if knob not in self.seen:
            self.seen[knob] = _spent(self.ready, self.batches, self.ready.with_knob(knob))
            self.tried()
        return self.seen[knob]

    def mean(self, knob: float) -> float:
        return _mean(self.values(knob))

    def search(self, target: float) -> Found:
        """The knob whose mean is closest to a target.

        Raises:
            UnreachableError: the ends of the knob's range do not reach it.
        """
        ready, batch = self.ready, self.ready.batch()
        assert ready.job.budget is not None
        return search(
            self.mean,
            ready.reducer.knob_range(batch),
            target,
            whole=whole_knob(ready.reducer),
            values=ready.reducer.knob_values(batch),
            name=ready.knob_name,
            unit=UNITS[ready.job.budget.kind],
        )


def _led(spending: _Spending) -> Found | None:
    """The knob that meets the budget, led there by the first batch alone.

    What a method spends on a few images runs beside what it spends on all: the first batch's target
    is moved by the distance between the two until all samples meet theirs. Where every sample
    counts the same, as under a fixed count, the first look at all of them ends it.

    Returns:
        None where it does not end so: the knob is then searched on all samples.
    """
    ready = spending.ready
    assert ready.job.budget is not None
    if len(spending.batches) < 2:
        return None
    first = _Spending(ready, spending.batches[:1], spending.tried)
    target, away = ready.job.budget.target, 0.0
    for look in range(LOOKS):
        try:
            found = first.search(target - away)
        except BudgetError:
            return None  # said of all samples
        values = spending.values(found.knob)
        if look == 0 and ready.reducer.card.fixed_count and min(values) == max(values):
            return found  # a note of a later one would name another target
        reached = _mean(values)
        if abs(reached - target) <= TOLERANCE:
            low, high = sorted(map(spending.mean, ends(ready.reducer, ready.batch())))
            return Found(found.knob, reached, low, high, len({*first.seen, *spending.seen}))
        away = reached - found.reached
    return None


def _searched_on_all(spending: _Spending) -> Found:
    """The knob that meets the budget, and where none does another option that would."""
    ready = spending.ready
    job = ready.job
    assert job.budget is not None
    try:
        return spending.search(job.budget.target)
    except UnreachableError as error:

        def quantity(reducer: Reducer) -> float:
            spending.tried()
            return _mean(_spent(ready, spending.batches, reducer))

        wider = advice(job, ready.batch(), quantity, UNITS[job.budget.kind])
        raise UnreachableError(f"{error} {wider}".rstrip()) from error


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def evaluated(
    calibration: Calibration, bench: AnyBench, job: Job, geometry: object, rows: Rows
) -> None:
    """Add what the budget counts on the evaluated images: mean and 95 % interval (of one: None)."""
    assert job.budget is not None
    values = bench.spent(job.budget.quantity, rows, geometry, job.macs_convention)
    calibration.evaluated = _mean(values)
    bounds = mean_interval(values)
    calibration.evaluated_ci95 = None if bounds is None else list(bounds)


def _spent(ready: Prepared, batches: Sequence[object], reducer: Reducer) -> list[float]:
    """What the budget counts of every calibration image under a method."""
    job = ready.job
    assert job.budget is not None
    rows = ready.bench.calibrating(ready.loaded, reducer, batches, seed=job.seed)
    first, whole = FirstSamples(), []
    with contextlib.closing(rows):
        for batch in rows:
            first.see((row["id"], row["error"]) for row in batch)
            whole += batch
    values = ready.bench.spent(job.budget.quantity, whole, ready.geometry, job.macs_convention)
    if not values:
        raise BudgetError(
            f"None of the {len(whole)} calibration samples could be read; the first: "
            f"{whole[0]['error']}."
        )
    return values
