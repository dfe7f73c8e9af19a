"""A job made ready: method built, model and samples open, options resolved, key known."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from asap_eval.bench.bench import AnyBench, Loaded, Samples, bench_class, build_bench
from asap_eval.errors import BadValueError, BudgetError, DataError, UnsupportedModelError
from asap_eval.hosts import install
from asap_eval.method import Batch, Reducer, build, method_class
from asap_eval.models import ModelSpec, load_model, load_vlm
from asap_eval.options import options
from asap_eval.paths import PACKAGE
from asap_eval.record import Job, job_key
from asap_eval.runner.sources import sources_digest
from asap_eval.runner.versions import computing

EXAMPLE = "example"
"""``data=example``: the images that come with the package."""

_kept: dict[tuple[object, ...], Loaded] = {}
"""The model that was loaded last."""


@dataclass(frozen=True)
class Prepared:
    """What a run needs, and what names it.

    Attributes:
        job: resolved. bench, loaded, samples, geometry: what it runs on.
            `Bench` says of which types.
        sources: hash of the files that can change its numbers. content: hash of what the samples
            hold, as they were opened; searched: of those that a budget is searched on, None without
            one. key: of the job.
    """

    job: Job
    bench: AnyBench
    loaded: Loaded
    samples: Samples
    geometry: object
    sources: str
    content: str
    searched: str | None
    key: str

    @property
    def knob_name(self) -> str:
        return method_class(self.job.method).card.knob or ""

    def for_baseline(self) -> Prepared:
        """The unpruned job on the model and the samples that are open already."""
        return _prepared(self.job.baseline(), self.bench, self.loaded, self.samples)

    def check_content(self) -> None:
        """Raise `DataError` where the data is no longer what it was when it was opened."""
        now = (self.samples.content(), _searched(self.job, self.samples))
        if now != (self.content, self.searched):
            raise DataError(
                f"data={self.job.data} changed while the job ran, so that its rows do not go "
                "together. Give the same command again once nothing writes there."
            )

    def batch(self) -> Batch:
        """A batch of this model, for what a method checks before any image is seen."""
        part = self.bench.acts_in(self.geometry, method_class(self.job.method))
        return Batch(
            count=1,
            tokens=part.tokens,
            prefix=part.prefix,
            depth=part.depth,
            has_cls=part.has_cls,
            grid=part.grid,
            seed=self.job.seed,
            device=torch.device("cpu"),
            id_of=lambda _: "",
        )


def prepare(job: Job) -> Prepared:
    """Open everything a job needs; every error of input is raised here, before any record.

    Raises:
        AsapEvalError: unknown names, bad values, models or data that cannot be used.
    """
    bench, _ = checked(job)
    if job.data == "" and bench.own_data is not None:
        job = dataclasses.replace(job, data=bench.own_data)
    if job.data == "":
        raise BadValueError(
            "data is missing: give a folder with one folder per class, for instance "
            f"data=imagenet/val, or data={EXAMPLE} for the bundled images."
        )
    loaded = bench.adapted(load(job))
    bench.check(loaded)
    bench.check_convention(loaded, job.macs_convention)
    samples = bench.open(data_address(job), loaded, limit=job.limit, sample=job.sample)
    ready = _prepared(job, bench, loaded, samples)
    if job.speed and len(samples) < bench.samples_per_batch(job.batch_size):
        raise BadValueError(
            f"speed=true measures batches of batch_size={job.batch_size} real images, but there "
            f"are {len(samples)}: lower batch_size or raise limit."
        )
    return ready


def checked(job: Job) -> tuple[AnyBench, Reducer]:
    """Benchmark and method of a job, which fit each other; nothing is opened.

    Raises:
        AsapEvalError: unknown names, or values that do not fit.
    """
    bench = build_bench(job.bench, **job.bench_params)
    _check_budget(job, bench)
    _check_place(job, bench)
    reducer = _reducer(job)
    bench.accepts(reducer)
    if job.speed and bench.no_speed:
        raise BadValueError(f"speed=true is not for bench={job.bench}: {bench.no_speed}.")
    return bench, reducer


def spec_of(job: Job) -> ModelSpec:
    """What the model of a job is built from."""
    return ModelSpec(job.model, **job.model_params)


def load(job: Job) -> Loaded:
    """The model of a job, of the kind its benchmark takes.

    The latest one is kept, since the rows of a table mostly share it, and let go before another is
    loaded: two may not fit into memory.
    """
    vlm = bench_class(job.bench).vlm
    named = (job.model, json.dumps(job.model_params), job.weights, job.device, job.dtype, vlm)
    if named not in _kept:
        _kept.clear()
        _free_memory()
        model = spec_of(job) if job.model_params else job.model
        take: Callable[..., Loaded] = load_vlm if vlm else load_model
        _kept[named] = take(model, weights=job.weights, device=job.device, dtype=job.dtype)
    return _kept[named]


def _free_memory() -> None:
    """Give back what nothing refers to any more, on a GPU to whatever is loaded next."""
    gc.collect()  # modules and their hooks refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def data_address(job: Job) -> str:
    """The folder or address behind ``data=``."""
    return str(PACKAGE / "example" / "digits.zip" / "images") if job.data == EXAMPLE else job.data


def _prepared(job: Job, bench: AnyBench, loaded: Loaded, samples: Samples) -> Prepared:
    reducer = _reducer(job)
    sources = sources_digest(_modules(job))
    resolved = _resolved(job, reducer, bench, loaded)
    content, searched = samples.content(), _searched(resolved, samples)
    key = job_key(
        resolved,
        weights_sha256=loaded.weights.sha256,
        data_digest=samples.digest,
        content=content,
        searched=searched,
        sources=sources,
        versions=computing(resolved, bench, loaded.spec),
    )
    geometry = bench.geometry(loaded)
    ready = Prepared(resolved, bench, loaded, samples, geometry, sources, content, searched, key)
    reducer.check(ready.batch())
    with install(loaded.model, reducer):
        pass  # refuses a method that this model cannot serve
    return ready


def _searched(job: Job, samples: Samples) -> str | None:
    """Which samples a budget is searched on, and what they hold."""
    if job.budget is None:
        return None
    found, _ = samples.calibration(job.budget.samples)
    return hashlib.sha256(f"{found.digest} {found.content()}".encode()).hexdigest()


def _reducer(job: Job) -> Reducer:
    """The method; its knob may be given as ``k`` or among its options."""
    params = dict(job.params)
    given = params.pop("k", None)
    if given is not None and job.k is not None and given != job.k:
        raise BadValueError(f"k={job.k:g} and method.k={given} both set the knob: drop one.")
    return build(job.method, k=job.k if given is None else given, **params)


def _resolved(job: Job, reducer: Reducer, bench: AnyBench, loaded: Loaded) -> Job:
    """The job with every default filled in, so that equal runs are equal jobs."""
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


def _check_place(job: Job, bench: AnyBench) -> None:
    """Refuse what a classifier cannot show: its head reads the tower's tokens itself."""
    cls = method_class(job.method)
    if bench.accuracy and not bench.vlm and (cls.site == "output" or cls.tower == "language"):
        raise UnsupportedModelError(
            f"Method '{job.method}' acts on what a tower hands to a language model, or inside it; "
            f"bench={job.bench} classifies images. Use bench=vlm with a vision-language model "
            "(asap-eval-ls models), or another method."
        )


def _check_budget(job: Job, bench: AnyBench) -> None:
    if job.budget is None:
        return
    if reason := bench.budgets.get(job.budget.kind):
        raise BudgetError(
            f"budget={job.budget.kind} is not for bench={job.bench}: {reason}. Use budget=macs."
        )
    cls = method_class(job.method)
    if job.budget.kind == "tokens" and cls.tower == "language":
        raise BudgetError(
            f"budget=tokens counts tokens handed to the language model; '{job.method}' acts "
            f"inside it. Give its knob (k: {cls.card.knob_meaning}), or use budget=macs."
        )
    knob = cls.card.knob
    if knob is None:
        raise BudgetError(f"budget={job.budget.kind}: method '{job.method}' has no knob to turn.")
    if (given := job.params.get(knob)) is not None:
        wide = cls.card.widens[0] if isinstance(given, str) and cls.card.widens else None
        why = " (a budget searches a number; without one method.{wide}= sets the work)"
        raise BadValueError(
            f"method.{knob}={given} and budget={job.budget.kind} both set the knob of "
            f"'{job.method}': leave one of them out{why.format(wide=wide) if wide else ''}."
        )


def _modules(job: Job) -> list[str]:
    """Where the code begins that can change this job's numbers."""
    modules = [
        method_class(job.method).__module__,
        "asap_eval.hosts",
        "asap_eval.models",
        bench_class(job.bench).__module__,
    ]
    return [*modules, "asap_eval.runner.calibration"] if job.budget is not None else modules
