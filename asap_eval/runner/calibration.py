"""Meeting a budget: the knob is searched on a few samples, then judged on the evaluated ones."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from asap_eval.bench.bench import AnyBench
from asap_eval.bench.first_samples import FirstSamples
from asap_eval.errors import BudgetError, UnreachableError
from asap_eval.method import Reducer
from asap_eval.record import Calibration, Job, ids_digest
from asap_eval.record.journal import Row
from asap_eval.runner.knob_search import Found, search, whole_knob
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.progress import bar, say, warn
from asap_eval.runner.widen import advice
from asap_eval.statistics import mean_interval

UNITS = {"macs": "%", "tokens": "tokens"}
"""Unit in which each kind of budget counts."""


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
    # Decoded once: the search runs over them ten to twenty times.
    batches = list(
        ready.bench.batches(ready.loaded, samples, batch_size=job.batch_size, workers=workers)
    )
    found = _alike(ready, batches) if ready.reducer.card.fixed_count else None
    if found is None:
        found = _searched(ready, batches)
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


def _alike(ready: Prepared, batches: Sequence[object]) -> Found | None:
    """The knob found on the first batch, where then every image counts the same; otherwise None.

    A method with a fixed count spends on each image of a size what it spends on any other.
    """
    if len(batches) < 2:
        return None
    try:
        found = _searched(ready, batches[:1])
    except BudgetError:
        return None  # said of all of them
    values = _spent(ready, batches, ready.with_knob(found.knob))
    return found if min(values) == max(values) else None


def _searched(ready: Prepared, batches: Sequence[object]) -> Found:
    """The knob that meets the budget on these samples."""
    job = ready.job
    assert job.budget is not None
    unit = UNITS[job.budget.kind]
    with bar(f"budget {job.method}", None) as advance:

        def quantity(reducer: Reducer) -> float:
            values = _spent(ready, batches, reducer)
            advance(1)
            return sum(values) / len(values)

        try:
            return search(
                lambda knob: quantity(ready.with_knob(knob)),
                ready.reducer.knob_range(ready.batch()),
                job.budget.target,
                whole=whole_knob(ready.reducer),
                values=ready.reducer.knob_values(ready.batch()),
                name=ready.knob_name,
                unit=unit,
            )
        except UnreachableError as error:
            wider = advice(job, ready.batch(), quantity, unit)
            raise UnreachableError(f"{error} {wider}".rstrip()) from error


def evaluated(
    calibration: Calibration, bench: AnyBench, job: Job, geometry: object, rows: Sequence[Row]
) -> None:
    """Add what the budget counts on the evaluated images: mean and 95 % interval (of one: None)."""
    assert job.budget is not None
    values = bench.spent(job.budget.quantity, rows, geometry, job.macs_convention)
    calibration.evaluated = sum(values) / len(values)
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
