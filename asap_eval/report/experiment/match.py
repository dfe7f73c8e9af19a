"""Which records are rows of an experiment."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from asap_eval.experiment import Entry, Experiment, bench_defaults
from asap_eval.method import Reducer, methods
from asap_eval.options import options
from asap_eval.record import LAYER_MEAN, Job, RunRecord
from asap_eval.report.experiment.verdict import NOT_RUN
from asap_eval.report.frame import comparable

NO_RECORD = "no record"


@dataclass(frozen=True)
class Found:
    """A row of an experiment and what became of it.

    Attributes:
        record: a finished one, or None: ``reason``. model: on which a row without a record was to
            run; None = on any. word: its verdict.
    """

    entry: Entry
    record: RunRecord | None
    reason: str | None = None
    model: str | None = None
    word: str = NOT_RUN

    @property
    def verdict(self) -> str:
        """Why there is no record, in the first sentence of its error; the rest is advice."""
        return f"{self.word}: {(self.reason or 'it failed').split('. ')[0].rstrip('.')}"


def matched(experiment: Experiment, records: Sequence[RunRecord]) -> list[Found]:
    """Every row of an experiment with its records: in each group that may be compared, the latest.

    A row fits a record of its method, knob or budget, options, seed and model; images, weights
    and precision are what the tables are grouped by.
    """
    found = []
    alike: dict[tuple[str, str, int], list[RunRecord]] = defaultdict(list)
    # A finished run counts before one that is not, then the later one.
    for record in sorted(records, key=lambda r: (r.status == "done", r.provenance.started, r.key)):
        alike[record.job.method, record.job.bench, record.job.seed].append(record)
    for entry in experiment.entries:
        latest: dict[tuple[Any, ...], RunRecord] = {}
        for record in alike[entry.method, entry.bench, entry.overrides.get("seed", 0)]:
            if experiment.takes(entry, record.job.model) and fits(entry, record.job):
                latest[comparable(record)] = record
        for record in latest.values():
            if record.status == "done":
                found.append(Found(entry, record))
            else:
                reason = record.error if record.status == "failed" else "not finished"
                found.append(Found(entry, None, reason, record.job.model))
        reason = entry.lacks() or NO_RECORD
        found.append(Found(entry, None, reason, entry.model if entry.named else None))
    return found


def on_models(
    experiment: Experiment, records: Sequence[RunRecord]
) -> list[tuple[Experiment, list[Found]]]:
    """The experiment on each model that has finished rows of it."""
    models = sorted({f.record.job.model for f in matched(experiment, records) if f.record})
    on = [experiment.on(model) for model in models]
    return [
        (each, matched(each, [r for r in records if r.job.model == model]))
        for model, each in zip(models, on, strict=True)
    ]


def fits(entry: Entry, job: Job) -> bool:
    """Whether a job is the row, on whatever model, images and machine."""
    row = entry.overrides
    return (
        job.method == entry.method
        and job.seed == row.get("seed", 0)
        and job.bench == entry.bench
        and _same_bench(_left_open(entry, _bench_of(entry)), _left_open(entry, job.bench_params))
        and (job.speed or not row.get("speed", False))
        and _options(job.method, job.params) == _options(entry.method, _given(entry, "method"))
        and _same_knob(entry, job)
    )


def _bench_of(entry: Entry) -> dict[str, Any]:
    """Options of a row's benchmark; ``tasks`` may stand alone there as on the command line."""
    alone = {name: entry.overrides[name] for name in ("tasks",) if name in entry.overrides}
    return {**bench_defaults(entry.bench), **_given(entry, "bench"), **alone}


def _same_bench(row: Mapping[str, Any], ran: Mapping[str, Any]) -> bool:
    """Whether a benchmark's options are the row's; of a list (of tasks) a part may have run."""

    def same(name: str) -> bool:
        asked, given = row.get(name), ran.get(name)
        if isinstance(asked, list) and isinstance(given, list):
            return set(given) <= set(asked)
        return bool(asked == given)

    return all(same(name) for name in {*row, *ran})


def _left_open(entry: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a benchmark, less those that the row leaves to the command line."""
    return {name: value for name, value in values.items() if f"bench.{name}" not in entry.needs}


def _same_knob(entry: Entry, job: Job) -> bool:
    row = entry.overrides
    kind = row.get("budget", "none")
    if job.budget is not None or kind != "none":
        count = row.get("budget.count", LAYER_MEAN) if kind == "tokens" else None
        return job.budget is not None and (
            (job.budget.kind, job.budget.target, job.budget.count)
            == (kind, row.get("target"), count)
        )
    knob = _knob(entry.method)
    default = _defaults(entry.method).get(knob)
    ran = job.params.get(knob) if job.k is None else job.k  # a schedule is no single number
    return bool(ran == row.get("k", row.get(f"method.{knob}", default)))


def _given(entry: Entry, group: str) -> dict[str, Any]:
    pairs = ((key.partition("."), value) for key, value in entry.overrides.items())
    return {option: value for (head, _, option), value in pairs if head == group and option}


def _options(method: str, given: Mapping[str, Any]) -> Any:
    """Every option but the knob, as JSON holds it: tuples are lists."""
    values = {**_defaults(method), **given}
    values.pop(_knob(method), None)
    return json.loads(json.dumps(values))


def _defaults(method: str) -> dict[str, Any]:
    cls = methods().get(method)
    return _options_of(cast(Hashable, cls)) if cls else {}


@cache
def _options_of(cls: Hashable) -> dict[str, Any]:
    return {name: default for name, _, default in options(cast(type[Reducer], cls))}


def _knob(method: str) -> str:
    cls = methods().get(method)
    return (cls.card.knob if cls else None) or ""
