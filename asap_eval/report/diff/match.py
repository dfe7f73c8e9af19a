"""Which records of two folders are the same job, whatever version of the code ran it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asap_eval.experiment import bench_defaults
from asap_eval.record import RunRecord
from asap_eval.report.frame import changed_options

Kept = tuple[Path, RunRecord]
"""A record and the file it stands in."""


@dataclass(frozen=True)
class Shared:
    """Names that all records at hand have: older versions wrote fewer, and only these count.

    Attributes:
        model: names of the model's own parameters. data: of the hashes of the data.
    """

    model: Set[str]
    data: Set[str]

    @classmethod
    def of(cls, records: Sequence[RunRecord]) -> Shared:
        models = [set(record.job.model_params) for record in records]
        hashes = [{"ids_digest", "content"} & set(record.provenance.data) for record in records]
        return cls(*(set.intersection(*sets) if sets else set() for sets in (models, hashes)))


@dataclass(frozen=True)
class Pairs:
    """Records of two folders by job.

    Attributes:
        both: of a job that both folders hold, in the order of its label. only_a, only_b: the rest.
        older: records left out because a later one of the same job stands in the same folder.
    """

    both: list[tuple[Kept, Kept]]
    only_a: list[Kept]
    only_b: list[Kept]
    older: int


def pairs(a: Sequence[Kept], b: Sequence[Kept]) -> Pairs:
    """Match the records of two folders; of several records of one job the latest counts."""
    shared = Shared.of([record for _, record in (*a, *b)])
    left, right = _by_job(a, shared), _by_job(b, shared)
    return Pairs(
        both=_in_order([(left[job], right[job]) for job in left if job in right]),
        only_a=[one for (one,) in _in_order([(left[job],) for job in left if job not in right])],
        only_b=[one for (one,) in _in_order([(right[job],) for job in right if job not in left])],
        older=len(a) + len(b) - len(left) - len(right),
    )


def identity(record: RunRecord, shared: Shared) -> str:
    """Equal for records of one job: its key without the hash of the code.

    Weights and data count by their content, options at their default not at all (a newer version
    may have more of them), files that options name by their names.
    """
    job = dataclasses.asdict(record.job)
    job["weights"] = record.provenance.weights.get("sha256")
    del job["labels"]  # what the file says is in the digest of the ids
    job["data"] = [record.provenance.data[name] for name in sorted(shared.data)]
    job["params"] = _files(changed_options(record.job.method, record.job.params))
    job["bench_params"] = _files(_of_bench(record))
    job["model_params"] = _files(
        {k: v for k, v in record.job.model_params.items() if k in shared.model}
    )
    return json.dumps(job, sort_keys=True)


def label(record: RunRecord) -> str:
    """A job in one line: model, benchmark, method and what is not at its default."""
    job = record.job
    settings = [f"k={job.k:.4g}"] if job.k is not None else []
    options = changed_options(job.method, job.params)
    settings += [f"{name}={value}" for name, value in sorted(options.items())]
    settings += [job.budget.said] if job.budget else []
    settings += [f"seed={job.seed}"] if job.seed else []
    bench = [f"{record.provenance.data.get('n')} samples"]
    bench += [f"{name}={value}" for name, value in sorted(_of_bench(record).items())]
    parts = [job.model, f"{job.bench} ({', '.join(bench)})", " ".join([job.method, *settings])]
    return " · ".join(parts)


def _of_bench(record: RunRecord) -> dict[str, Any]:
    """Options of the benchmark that are not at their default."""
    usual = bench_defaults(record.job.bench)
    given = record.job.bench_params.items()
    return {k: v for k, v in given if k not in usual or usual[k] != v}


def _by_job(kept: Sequence[Kept], shared: Shared) -> dict[str, Kept]:
    found: dict[str, Kept] = {}
    # A finished run counts before one that is not, then the later one.
    for one in sorted(kept, key=lambda k: (k[1].status == "done", k[1].provenance.started)):
        found[identity(one[1], shared)] = one
    return found


def _in_order(found: list[Any]) -> list[Any]:
    return sorted(found, key=lambda kept: (label(kept[0][1]), kept[0][1].key))


def _files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with paths cut down to the name of their file."""
    return {k: Path(v).name if isinstance(v, str) and "/" in v else v for k, v in options.items()}
