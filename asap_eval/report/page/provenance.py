"""The end of the page: what each record was made with, its facts by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from asap_eval.record import RunRecord
from asap_eval.report.diff.match import label


@dataclass(frozen=True)
class Source:
    """One record.

    Attributes:
        title: its job in a line. status: how it ended. facts: name and text, in order.
        failures: id and message of each failed sample.
    """

    title: str
    status: str
    facts: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]


def source_of(record: RunRecord, path: PurePath) -> Source:
    """What a reader needs to believe a record's numbers and to get them again."""
    about, job = record.provenance, record.job
    commit = None
    if about.commit is not None:
        commit = about.commit + (" with uncommitted changes" if about.dirty else "")
    facts: list[tuple[str, Any]] = [
        ("command", about.command),
        ("file", path.as_posix()),
        ("key", record.key),
        ("error", record.error),
        ("commit", commit),
        ("sources", about.sources),
        ("weights", about.weights),
        ("data", about.data),
        ("method", about.method),
        ("options", job.params),
        ("benchmark's options", job.bench_params),
        ("model's options", job.model_params),
        ("batch size, device, precision", f"{job.batch_size}, {job.device}, {about.dtype}"),
        ("MACs convention", job.macs_convention),
        ("kernels", about.kernels),
        ("seeds", about.seeds),
        ("machine", about.machine),
        ("packages", about.packages),
        ("calibration", about.calibration and vars(about.calibration)),
        ("started", about.started),
        ("seconds", None if about.duration_s is None else f"{about.duration_s:.1f}"),
        ("baseline", record.baseline and record.baseline.key),
        ("samples", record.samples),
        ("schema", str(record.schema)),
    ]
    return Source(
        title=label(record),
        status=record.status,
        facts=tuple((name, _text(value)) for name, value in facts if value not in (None, {}, "")),
        failures=tuple((f.get("id", ""), f.get("message", "")) for f in about.failures),
    )


def _text(value: Any) -> str:
    """A block as ``name value`` pairs; what is not known is left out."""
    if not isinstance(value, dict):
        return str(value)
    given = {name: inner for name, inner in value.items() if inner not in (None, "", {})}
    return " · ".join(f"{name} {_inner(inner)}" for name, inner in given.items())


def _inner(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
