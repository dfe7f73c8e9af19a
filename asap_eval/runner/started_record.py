"""The record as a run begins it: the job, and where its numbers will come from."""

from __future__ import annotations

import dataclasses

from asap_eval import plugins
from asap_eval.record import Provenance, RunRecord
from asap_eval.runner import provenance
from asap_eval.runner.prepare import Prepared
from asap_eval.runner.provenance import Request


def started_record(
    ready: Prepared,
    earlier: RunRecord | None,
    samples: str,
    request: Request,
    device: str | None = None,
) -> RunRecord:
    """The ``running`` record of a job.

    Args:
        earlier: of the run that is taken up again; its start and its calibration stay.
        samples: name of the per-sample file. device: where the model was opened, None = where the
            job says.
    """
    job = ready.job
    commit, dirty = provenance.git_state()
    return RunRecord(
        key=ready.key,
        status="running",
        job=job,
        samples=samples,
        provenance=Provenance(
            command=request.command,
            config=dict(request.config),
            commit=commit,
            dirty=dirty,
            sources=ready.sources,
            packages=provenance.packages(),
            machine={**provenance.machine(device or job.device), **ready.loaded.placement},
            dtype=job.dtype,
            kernels=provenance.kernels(job.device),
            seeds={"run": job.seed},
            weights=dataclasses.asdict(ready.loaded.weights),
            method={**plugins.origin(type(ready.reducer)), **ready.reducer.origin()},
            data={
                "source": job.data,
                "name": ready.data_name,
                "ids_digest": ready.samples.digest,
                "content": ready.content,
                "n": len(ready.samples),
                "commits": dict(ready.samples.commits),
                "notes": list(ready.bench.notes(ready.samples)),
            },
            started=earlier.provenance.started if earlier else provenance.now(),
            calibration=earlier.provenance.calibration if earlier else None,
        ),
    )
