"""One verdict for each claim of the ASAP paper that the records of a folder can decide.

``claims(records, clustering)`` gives a table for every model: claim, what the paper says, what was
measured on how many images, and the verdict by the rule of `claim_rules`. A claim without evidence
is ``not run`` and says what to run; random weights are ``not comparable``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asap_eval.errors import RecordError
from asap_eval.record import RunRecord
from asap_eval.report.claim_rules import (
    CLUSTERING_PAPER,
    CLUSTERING_RULE,
    TAU_CLAIMS,
    WALK_CLAIMS,
    Finding,
    clustering,
)
from asap_eval.report.render import DASH, Table

PLAIN_WALK = {"alpha": 0.5, "order": "walk", "chain": "full"}
"""Options of the walk that the paper describes; other records of ``bench=walk`` decide nothing."""

LEAST_TAUS = 3
"""Thresholds that make a grid."""

COLUMNS = ("claim", "paper says", "measured", "n", "verdict")


@dataclass(frozen=True)
class Verdict:
    """One row: ``n`` is None where nothing was measured."""

    claim: str
    paper: str
    rule: str
    measured: str
    n: int | None
    verdict: str


def claims(records: Sequence[RunRecord], timing: Sequence[Mapping[str, Any]] = ()) -> list[Table]:
    """A table of verdicts for each model of the records, in order of their names.

    Args:
        timing: rows of the files that ``benchmarks/clustering.py`` writes (see `read_timing`).
    """
    models = sorted({record.job.model for record in records})
    return [_table(model, verdicts(model, records, timing)) for model in models]


def read_timing(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that ``benchmarks/clustering.py`` wrote.

    Raises:
        RecordError: it cannot be read or holds something else.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["clustering"]
    except OSError as error:
        raise RecordError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is not a file of benchmarks/clustering.py.") from error
    return list(rows)


def verdicts(
    model: str, records: Sequence[RunRecord], timing: Sequence[Mapping[str, Any]] = ()
) -> list[Verdict]:
    """The verdict on every claim for one model."""
    done = [r for r in records if r.job.model == model and r.status == "done"]
    timed = [row for row in timing if row["model"] == model]
    found = clustering(timed) if timed else None
    return [
        *_walk_verdicts(done),
        _verdict(
            "clustering takes 0.01 ms",
            CLUSTERING_PAPER,
            CLUSTERING_RULE,
            found,
            "not run: benchmarks/clustering.py, and its file with --clustering",
        ),
        *_tau_verdicts(done),
    ]


def _walk_verdicts(done: Sequence[RunRecord]) -> list[Verdict]:
    walks = [r for r in done if r.job.bench == "walk" and _plain(r) and r.analysis is not None]
    # The most images decide; the key only makes the choice the same every time.
    record = max(walks, key=lambda r: (r.provenance.data["n"], r.key), default=None)
    rows = []
    for claim in WALK_CLAIMS:
        found, why = None, "not run: bench=walk"
        if record is not None and record.analysis is not None:
            found = claim.judge(record.analysis)
            why = f"not run: no image fires at tau={record.job.bench_params['tau']:g}"
        trained = record is None or _trained(record)
        rows.append(_verdict(claim.claim, claim.paper, claim.rule, found, why, trained))
    return rows


def _tau_verdicts(done: Sequence[RunRecord]) -> list[Verdict]:
    """Claims over thresholds, from records that differ in nothing else."""
    grids: dict[str, list[RunRecord]] = defaultdict(list)
    for record in done:
        job = record.job
        # A budget would turn K with tau.
        if job.bench == "imagenet" and job.method == "asap" and record.paired and not job.budget:
            grids[_apart_from_tau(record)].append(record)
    grid = max(grids.values(), key=lambda g: (len(g), g[0].provenance.data["n"]), default=[])
    rows = sorted((_tau_row(record) for record in grid), key=lambda row: row["tau"])
    enough = len(rows) >= LEAST_TAUS
    why = f"not run: method=asap at {LEAST_TAUS} values of method.tau or more"
    trained = all(map(_trained, grid))
    return [
        _verdict(claim, paper, rule, judge(rows) if enough else None, why, trained)
        for claim, paper, rule, judge in TAU_CLAIMS
    ]


def _apart_from_tau(record: RunRecord) -> str:
    """What the records of one grid have in common."""
    job, provenance = record.job, record.provenance
    params = {name: value for name, value in job.params.items() if name != "tau"}
    weights, images = provenance.weights["sha256"], provenance.data["ids_digest"]
    parts = [params, job.k, job.seed, job.dtype, weights, images]
    return json.dumps(parts, sort_keys=True)


def _tau_row(record: RunRecord) -> dict[str, Any]:
    assert record.metrics is not None
    assert record.paired is not None
    assert record.macs is not None
    return {
        "tau": float(record.job.params["tau"]),
        "top1": record.metrics.top1,
        "low": record.paired.ci95[0],
        "high": record.paired.ci95[1],
        "reduction_pct": record.macs.reduction_pct,
        "n": record.metrics.n,
    }


def _plain(record: RunRecord) -> bool:
    return all(record.job.bench_params.get(name) == value for name, value in PLAIN_WALK.items())


def _trained(record: RunRecord) -> bool:
    return bool(record.provenance.weights["trained"])


def _verdict(
    claim: str, paper: str, rule: str, found: Finding | None, why: str, trained: bool = True
) -> Verdict:
    if found is None:
        return Verdict(claim, paper, rule, DASH, None, why)
    verdict = found.verdict if trained else "not comparable: random weights"
    return Verdict(claim, paper, rule, found.measured, found.n, verdict)


def _table(model: str, rows: Sequence[Verdict]) -> Table:
    return Table(
        title=f"{model} · what the paper says of the walk",
        columns=COLUMNS,
        rows=[
            [row.claim, row.paper, row.measured, DASH if row.n is None else str(row.n), row.verdict]
            for row in rows
        ],
        notes=[f"{row.claim}: {row.rule}" for row in rows],
    )
