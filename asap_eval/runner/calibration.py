"""Meeting a budget: which images it is searched on, and what it comes to on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asap_eval.bench.statistics import mean_interval
from asap_eval.bench.work import macs_change
from asap_eval.budget import search, whole_knob
from asap_eval.errors import BudgetError
from asap_eval.hosts import Geometry
from asap_eval.journal import Row
from asap_eval.method import build
from asap_eval.record import Calibration, ids_digest
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.progress import bar, say, warn


def calibrate(ready: Prepared, workers: int = 0) -> Calibration:
    """The knob that meets a job's MACs budget on its calibration subset.

    Raises:
        BudgetError: no knob meets it (with the reachable range), or no image can be read.
    """
    job = ready.job
    assert job.budget is not None
    samples, disjoint = ready.samples.calibration(job.budget.samples)
    name = ready.knob_name
    say(
        f"Searching {name} of {job.method} for {job.budget.target:g} % MACs on {len(samples)} "
        f"samples{'' if disjoint else ' of the evaluated ones: no others are left'}."
    )
    reducer = build(job.method, **job.params)
    # Decoded once: the search runs over them ten to twenty times.
    batches = list(
        ready.bench.batches(ready.loaded, samples, batch_size=job.batch_size, workers=workers)
    )
    with bar(f"budget {job.method}", None) as advance:

        def quantity(knob: float) -> float:
            values = _change(ready, batches, knob)
            advance(1)
            return sum(values) / len(values)

        found = search(
            quantity,
            reducer.knob_range(ready.batch()),
            job.budget.target,
            whole=whole_knob(reducer),
            name=name,
        )
    say(f"Found {name}={found.knob:.6g}: {found.reached:.2f} % MACs.")
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


def evaluated_change(calibration: Calibration, rows: Sequence[Row], geometry: Geometry) -> None:
    """Add what the knob came to on the evaluated images, with its 95 % interval."""
    values = macs_change(rows, geometry)
    calibration.evaluated = sum(values) / len(values)
    calibration.evaluated_ci95 = list(mean_interval(values))


def _change(ready: Prepared, batches: Sequence[Any], knob: float) -> list[float]:
    """MACs change of every calibration image at one knob."""
    job = ready.job
    reducer = build(job.method, k=knob, **job.params)
    rows = ready.bench.evaluate(ready.loaded, reducer, batches, seed=job.seed)
    values = macs_change([row for batch in rows for row in batch], ready.geometry)
    if not values:
        raise BudgetError("None of the calibration images could be read.")
    return values
