"""A job with every default filled in, so that equal runs are equal jobs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from asap_eval.bench.bench import AnyBench, Loaded
from asap_eval.method import Reducer
from asap_eval.options import options
from asap_eval.record import Job


def resolved(job: Job, reducer: Reducer, bench: AnyBench, loaded: Loaded) -> Job:
    """The job with every option of its model, method and benchmark."""
    values = _values(reducer)
    knob = reducer.card.knob
    k = values.get(knob) if knob else None
    if k is None or isinstance(k, (int, float)) or job.budget is not None:
        values.pop(knob or "", None)  # a schedule, which no single number says, stays an option
    return dataclasses.replace(
        job,
        model=loaded.name,
        model_params=loaded.params,
        device=job.device.removesuffix(":0"),  # the first is meant where none is named
        k=float(k) if isinstance(k, (int, float)) and job.budget is None else None,
        params=json.loads(json.dumps(values)),
        bench_params=json.loads(json.dumps(_values(bench))),
    )


def _values(built: Reducer | AnyBench) -> dict[str, Any]:
    """Every option of a method or benchmark with its value."""
    return {name: getattr(built, name) for name, _, _ in options(type(built))}
