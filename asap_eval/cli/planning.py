"""``plan=true``: what would run, at what cost, and what is missing; nothing runs."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub

from asap_eval.bench.plan import lacking_data, lacking_weights
from asap_eval.cli.settings import Settings
from asap_eval.data.named import NotFetchedError
from asap_eval.errors import (
    BadValueError,
    DataError,
    RecordError,
    UnsupportedModelError,
    WeightsError,
)
from asap_eval.hub.errors import offline
from asap_eval.launch.launcher import launcher_of
from asap_eval.record import Job, read_record, record_stem
from asap_eval.runner import finished
from asap_eval.runner.checks import checked
from asap_eval.runner.inputs import check_folder
from asap_eval.runner.latest_model import spec_of
from asap_eval.runner.pieces import cut
from asap_eval.runner.prepare import Prepared, prepare
from asap_eval.train.head.fit import Recipe
from asap_eval.train.head.run import training_plan


def plan_of(settings: Settings) -> tuple[list[str], bool]:
    """Lines that say what a job would do, and whether it could."""
    job = settings.job
    bench, reducer = checked(job)
    plan = bench.plan(job, spec_of(job), reducer)
    ahead = [f"  {head + ':':<9}{text}" for head, text in plan.lines]
    unfetched = None if bench.vlm else lacking_weights(spec_of(job), job.weights)
    missing = [*plan.missing, *filter(None, (unfetched, lacking_data(job.data)))]
    # The cost of a model of this shape can be said without its weights, of unseen data not.
    if missing != [unfetched] and missing:
        return [_title(job), *ahead, *map(_missing, missing)], False
    try:
        check_folder("results", settings.results)
        with nothing_fetched():
            runs = dataclasses.replace(job, weights="random") if unfetched else job
            began = time.perf_counter()
            on = "cpu" if settings.launch.spreads else None  # a login node has no GPU
            ready = prepare(runs, imagenet=settings.imagenet, device=on)
    except NotFetchedError as error:
        needed = error if offline() else lacking_data(error.name)
        return [_title(job), *ahead, *map(_missing, [*missing, needed])], False
    except (BadValueError, DataError, WeightsError, UnsupportedModelError) as error:
        return [_title(job), *ahead, *map(_missing, [*missing, error])], False
    options, measured = (
        ", ".join(f"{name}={value}" for name, value in sorted(params.items()))
        for params in (ready.job.params, ready.job.bench_params)
    )
    weights = ready.loaded.weights
    found = f"{weights.name} {'' if weights.trained else '(random: not comparable)'}"
    lines = [
        _title(ready.job),
        f"  options: {options or 'none'}",
        *([f"  bench:   {measured}"] if measured else []),
        f"  data:    {ready.data_said or job.data}, {len(ready.samples)} samples ({job.sample})",
        *(f"  note:    {note}" for note in (*settings.notes, *ready.bench.notes(ready.samples))),
        *([] if unfetched else [f"  weights: {found}"]),
        f"  forward: batch_size={job.batch_size} device={job.device} dtype={job.dtype} "
        f"seed={job.seed}{', then speed' if job.speed else ''}",
        f"  work:    {ready.bench.unpruned_work(ready.loaded, ready.geometry, ready.samples)}",
    ]
    # What is open now was counted: the published sizes have no place beside it.
    lines += [line for line in ahead if not line.startswith("  samples:")]
    if job.budget is not None:
        fixed = ready.reducer.card.fixed_count
        passes = "passes over one batch, then one over all" if fixed else "passes over them"
        lines.append(
            f"  budget:  {job.budget.said}, searched on up to "
            f"{job.budget.samples} images, about 10 to 20 {passes}"
        )
    if settings.launch.spreads:
        lines += _launch_lines(settings, ready, time.perf_counter() - began)
    if unfetched:
        return [*lines, _missing(unfetched)], False  # records are named by their weights' content
    lines.append(f"  record:  {_state(ready, settings.results)}")
    if ready.bench.accuracy and ready.job.method != "none":
        lines.append(f"  compare: {_state(ready.for_baseline(), settings.results)}")
    return lines, True


def _launch_lines(settings: Settings, ready: Prepared, opening: float) -> list[str]:
    """How the job is cut and spread; refuses what the engine cannot do here.

    Args:
        opening: seconds that the job took to open in this process.
    """
    launch, job = settings.launch, ready.job
    found = cut(ready.bench, ready.samples, job.batch_size, launch.piece)
    most = max((piece.stop - piece.start for piece in found), default=0)
    text = f"{launch.kind}, {len(found)} pieces of up to {most} samples"
    if ready.bench.no_pieces is not None:
        text = f"{launch.kind}, one worker: {ready.bench.no_pieces}"
    elif launch.kind != "join":
        engine = launcher_of(launch)
        engine.check(job.device)
        workers = min(engine.count(job.device), len(found))
        text += (
            f", {workers} workers, about {-(-len(ready.samples) // max(workers, 1))} samples each"
        )
    return [f"  launch:  {text}; each opens the job once ({opening:.1f} s here, imports left out)"]


def training_plan_of(job: Job, recipe: Recipe, results: Path) -> tuple[list[str], bool]:
    """`plan_of` for ``stage=train``."""
    if unfetched := lacking_weights(spec_of(job), job.weights):
        return [f"{job.model}: a head on {job.bench}", _missing(unfetched)], False
    with nothing_fetched():
        return training_plan(job, recipe, results), True


def _missing(what: object) -> str:
    return f"  missing: {what}"


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """Hugging Face's libraries read their local caches alone, as with HF_HUB_OFFLINE=1."""
    places: list[Any] = [huggingface_hub.constants]
    if importlib.util.find_spec("datasets") is not None:
        places.append(importlib.import_module("datasets.config"))
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, offline in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = offline


def _title(job: Job) -> str:
    knob = f" k={job.k:g}" if job.k is not None else ""
    return f"{job.model} {job.method}{knob} on {job.bench}"


def _state(ready: Prepared, results: Path) -> str:
    path = results / f"{record_stem(ready.job, ready.key)}.json"
    if finished(path):
        return f"{path} is finished and will be reused"
    if not path.exists():
        return f"{path} will be written"
    try:
        return f"{path} is {read_record(path).status}: the run will be taken up again"
    except RecordError as error:
        return f"{error} It will be written again."
