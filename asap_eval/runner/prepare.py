"""A job made ready to run: model and samples open, method built, options resolved, key known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from asap_eval.bench.bench import AnyBench, Loaded, Samples
from asap_eval.data.named import address_of
from asap_eval.errors import BadValueError, DataError
from asap_eval.hosts import install
from asap_eval.method import Batch, Reducer, build_from, method_class
from asap_eval.record import Job, job_key
from asap_eval.runner.checks import checked
from asap_eval.runner.chosen_data import Chosen
from asap_eval.runner.inputs import looked_at
from asap_eval.runner.latest_model import load
from asap_eval.runner.resolve import resolved
from asap_eval.runner.sources import entry_modules, sources_digest
from asap_eval.runner.versions import computing


@dataclass(frozen=True)
class Prepared:
    """What a run needs, and what names it.

    Attributes:
        job: resolved. reducer: the method as the job has it; the knob is the default where a budget
            is to find it. data_name: short, for titles. data_said: see `Chosen`.
        bench, loaded, samples, geometry: what it runs on. `Bench` says of which types.
        sources: hash of the files that can change its numbers. content: hash of what the samples
            hold, as they were opened; searched: of those that a budget is searched on, None without
            one. key: of the job.
    """

    job: Job
    data_name: str
    data_said: str | None
    reducer: Reducer
    bench: AnyBench
    loaded: Loaded
    samples: Samples
    geometry: object
    sources: str
    content: str
    searched: str | None
    key: str

    def with_knob(self, k: float | None) -> Reducer:
        """The method with the knob that a budget tries or has found."""
        return build_from(self.job.method, self.job.params, k)

    @property
    def knob_name(self) -> str:
        return method_class(self.job.method).card.knob or ""

    def for_baseline(self) -> Prepared:
        """The unpruned job on the model and the samples that are open already."""
        job = self.job.baseline()
        reducer = build_from(job.method, job.params)
        chosen = Chosen(job, self.data_name)
        return _prepared(chosen, reducer, self.bench, self.loaded, self.samples)

    def check_content(self) -> None:
        """Raise `DataError` where the data is no longer what it was when it was opened."""
        self.samples.check(0, len(self.samples))
        if self.job.budget is not None:  # what a listing says of its pictures was never looked at
            searched, _ = self.samples.calibration(self.job.budget.samples)
            searched.check(0, len(searched))
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
            width=part.width,
        )


def prepare(job: Job, *, imagenet: str | None = None, device: str | None = None) -> Prepared:
    """Open everything a job needs; every error of input is raised here, before any record.

    Args:
        imagenet: folder of ImageNet, for jobs that name it or no data. device: where the model
            lies, None = where the job says; another one where nothing is computed: a login node
            has no GPU.

    Raises:
        AsapEvalError: unknown names, bad values, models or data that cannot be used.
    """
    bench, reducer = checked(job)
    chosen = looked_at(job, bench, reducer, imagenet, device)
    job = chosen.job
    loaded = bench.adapted(load(job, device))
    bench.check(loaded)
    bench.check_convention(loaded, job.macs_convention)
    samples = _opened(job, bench, loaded)
    ready = _prepared(chosen, reducer, bench, loaded, samples)
    if job.speed and len(samples) < bench.samples_per_batch(job.batch_size):
        raise BadValueError(
            f"speed=true measures batches of batch_size={job.batch_size} real images, but there "
            f"are {len(samples)}: lower batch_size or raise limit."
        )
    return ready


def _opened(job: Job, bench: AnyBench, loaded: Loaded) -> Samples:
    """The samples behind ``data``, with their labels where a file says those."""
    where = address_of(job.data)
    if job.labels is None:
        samples: Samples = bench.open(where, loaded, limit=job.limit, sample=job.sample)
    else:
        samples = bench.open_flat(where, job.labels, loaded, limit=job.limit, sample=job.sample)
    return samples


def _prepared(
    chosen: Chosen,
    reducer: Reducer,
    bench: AnyBench,
    loaded: Loaded,
    samples: Samples,
) -> Prepared:
    """Everything that follows from what is open: resolved options, key, and a method that fits."""
    sources = sources_digest(entry_modules(chosen.job))
    job = resolved(chosen.job, reducer, bench, loaded)
    content, searched = samples.content(), _searched(job, samples)
    key = job_key(
        job,
        weights_sha256=loaded.weights.sha256,
        data_digest=samples.digest,
        content=content,
        searched=searched,
        sources=sources,
        versions=computing(job, bench, loaded.spec),
    )
    ready = Prepared(
        job=job,
        data_name=chosen.name,
        data_said=chosen.said,
        reducer=build_from(job.method, job.params, job.k),
        bench=bench,
        loaded=loaded,
        samples=samples,
        geometry=bench.geometry(loaded),
        sources=sources,
        content=content,
        searched=searched,
        key=key,
    )
    ready.reducer.check(ready.batch())
    with install(loaded.model, ready.reducer):
        pass  # refuses a method that this model cannot serve
    return ready


def _searched(job: Job, samples: Samples) -> str | None:
    """Which samples a budget is searched on, and what they hold."""
    if job.budget is None:
        return None
    found, _ = samples.calibration(job.budget.samples)
    return hashlib.sha256(f"{found.digest} {found.content()}".encode()).hexdigest()
