"""One verdict for each claim of the ASAP paper that the records of a folder can decide.

``claims(records, clustering)`` gives a table for every model: claim, what the paper says, what was
measured on how many images, and the verdict by the rule of `claim_rules`. A claim without evidence
is ``not run`` and says what to run; random weights are ``not comparable``.

Rows of one experiment (``conf/experiment/claims.yaml``) decide, and nothing else that lies beside
them: a larger grid of another experiment would give the same claim another verdict.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asap_eval.errors import RecordError
from asap_eval.experiment import Experiment, load
from asap_eval.record import RunRecord
from asap_eval.report.experiment.match import matched
from asap_eval.report.frame import comparable, frame
from asap_eval.report.layouts.columns import name_of
from asap_eval.report.paper.claim_rules import (
    CLUSTERING_PAPER,
    CLUSTERING_RULE,
    TAU_CLAIMS,
    WALK_CLAIMS,
    Finding,
    clustering,
)
from asap_eval.report.sheet import DASH, Sheet, sheet_of_text

EVIDENCE = "claims"
"""The experiment whose rows decide."""

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


@dataclass(frozen=True)
class Evidence:
    """The finished rows of the experiment on one model.

    Attributes:
        walk: of the unpruned model. grid: ASAP at values of tau, in their order.
    """

    walk: RunRecord | None
    grid: tuple[RunRecord, ...]


def claims(
    records: Sequence[RunRecord],
    timing: Sequence[Mapping[str, Any]] = (),
    experiment: Experiment | None = None,
) -> list[Sheet]:
    """A table of verdicts for each model with evidence, in order of their names; for all models
    where none has any.

    Args:
        timing: rows of the files that ``benchmarks/clustering.py`` writes (see `read_timing`).
        experiment: whose rows decide; None = `EVIDENCE`.
    """
    experiment = experiment or load(EVIDENCE)
    models = sorted({record.job.model for record in records})
    found = {model: verdicts(model, records, timing, experiment) for model in models}
    decided = [model for model in models if any(row.n is not None for row in found[model])]
    return [
        _sheet(model, found[model], evidence(model, records, experiment))
        for model in decided or models
    ]


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
    model: str,
    records: Sequence[RunRecord],
    timing: Sequence[Mapping[str, Any]] = (),
    experiment: Experiment | None = None,
) -> list[Verdict]:
    """The verdict on every claim for one model."""
    shown = evidence(model, records, experiment or load(EVIDENCE))
    timed = [row for row in timing if row["model"] == model]
    found = clustering(timed) if timed else None
    return [
        *_walk_verdicts(shown.walk),
        _verdict(
            "clustering takes 0.01 ms",
            CLUSTERING_PAPER,
            CLUSTERING_RULE,
            found,
            "not run: benchmarks/clustering.py, and its file with --clustering",
        ),
        *_tau_verdicts(shown.grid),
    ]


def evidence(model: str, records: Sequence[RunRecord], experiment: Experiment) -> Evidence:
    """What decides: the walk on the most images, and the grid with the most values of tau (of
    several the one on the most images). Trained weights go first; among equals the key decides."""
    here = [record for record in records if record.job.model == model]
    rows = [f.record for f in matched(experiment.on(model), here) if f.record is not None]
    walks = [r for r in rows if r.job.bench == "walk" and r.analysis is not None]
    grids: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in rows:
        if record.job.method == "asap" and record.paired is not None:
            grids[comparable(record)].append(record)
    grid = max(
        grids.values(),
        key=lambda g: (_trained(g[0]), len(g), _images(g[0]), g[0].key),
        default=[],
    )
    return Evidence(
        max(walks, key=lambda r: (_trained(r), _images(r), r.key), default=None),
        tuple(sorted(grid, key=_tau)),
    )


def _images(record: RunRecord) -> int:
    return int(record.provenance.data["n"])


def _tau(record: RunRecord) -> float:
    return float(record.job.params["tau"])


def _walk_verdicts(record: RunRecord | None) -> list[Verdict]:
    rows = []
    for claim in WALK_CLAIMS:
        found, why = None, "not run: bench=walk"
        if record is not None and record.analysis is not None:
            found = claim.judge(record.analysis)
            why = f"not run: no image fires at tau={record.job.bench_params['tau']:g}"
        trained = record is None or _trained(record)
        rows.append(_verdict(claim.claim, claim.paper, claim.rule, found, why, trained))
    return rows


def _tau_verdicts(grid: Sequence[RunRecord]) -> list[Verdict]:
    """Claims over thresholds, from records that differ in nothing else."""
    rows = [_tau_row(record) for record in grid]
    enough = len(rows) >= LEAST_TAUS
    why = f"not run: method=asap at {LEAST_TAUS} values of tau or more of experiment={EVIDENCE}"
    trained = all(map(_trained, grid))
    return [
        _verdict(claim, paper, rule, judge(rows) if enough else None, why, trained)
        for claim, paper, rule, judge in TAU_CLAIMS
    ]


def _tau_row(record: RunRecord) -> dict[str, Any]:
    assert record.metrics is not None
    assert record.paired is not None
    assert record.macs is not None
    return {
        "tau": _tau(record),
        "top1": record.metrics.top1,
        "delta": record.paired.delta_top1,
        "low": record.paired.ci95[0],
        "high": record.paired.ci95[1],
        "reduction_pct": record.macs.reduction_pct,
        "n": record.metrics.n,
    }


def _trained(record: RunRecord) -> bool:
    return bool(record.provenance.weights["trained"])


def _verdict(
    claim: str, paper: str, rule: str, found: Finding | None, why: str, trained: bool = True
) -> Verdict:
    if found is None:
        return Verdict(claim, paper, rule, DASH, None, why)
    verdict = found.verdict if trained else "not comparable: random weights"
    return Verdict(claim, paper, rule, found.measured, found.n, verdict)


def _sheet(model: str, rows: Sequence[Verdict], shown: Evidence) -> Sheet:
    records = [record for record in (shown.walk, *shown.grid) if record is not None]
    names = {str(row["key"]): row for row in frame(records).to_dict("records")} if records else {}
    return sheet_of_text(
        f"{model} · what the paper says of the walk",
        COLUMNS,
        [
            [row.claim, row.paper, row.measured, DASH if row.n is None else str(row.n), row.verdict]
            for row in rows
        ],
        notes=[
            f"Rows of the experiment `{EVIDENCE}` decide, whatever other records lie beside them.",
            *(f"{row.claim}: {row.rule}" for row in rows),
        ],
        commands=[
            (f"{r.job.bench}, {name_of(names[r.key])}", r.provenance.command) for r in records
        ],
    )
