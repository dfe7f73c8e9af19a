"""What a run prints at its end: one table, what to know about it, the records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from asap_eval.errors import RecordError
from asap_eval.experiment import Entry, Experiment
from asap_eval.method import Reducer
from asap_eval.record import Job, RunRecord, read_record, record_stem
from asap_eval.registry import METHODS
from asap_eval.report import text
from asap_eval.report.experiment.match import Found
from asap_eval.report.experiment.tables import experiment_tables
from asap_eval.report.layouts.overview import overview
from asap_eval.runner import Outcome
from asap_eval.runner.progress import say, warn

SHOWN = 3
"""Failed samples named in a warning."""


@dataclass
class Result:
    """What became of a job: its outcome, or the reason why there is none.

    Attributes:
        entry, model: the job's row of an experiment, and what it was to run on. job: as it was
            asked for; None where the row cannot run.
    """

    entry: Entry | None = None
    model: str | None = None
    job: Job | None = None
    outcome: Outcome | None = None
    reason: str | None = None


def show(
    results: Sequence[Result], experiment: Experiment | None = None, *, wide: bool = False
) -> None:
    """The table of some runs and the unpruned ones they compare with; last, the records' paths.

    Args:
        wide: with all columns.
    """
    outcomes = [result.outcome for result in results if result.outcome]
    records = {outcome.record.key: outcome.record for outcome in outcomes}
    for outcome in outcomes:
        if (baseline := _baseline(outcome)) is not None:
            records.setdefault(baseline.key, baseline)
    if experiment is None:
        lost = [(r.job, r.reason) for r in results if r.job and r.reason and not r.outcome]
        sheets = overview(list(records.values()), lost=lost)
    else:
        sheets = experiment_tables(experiment, _found(results), list(records.values()))
    text.show(sheets, wide=wide)
    sys.stdout.flush()
    _draw(outcomes)
    for outcome in outcomes:
        for remark in remarks(outcome.record):
            warn(remark)
    for outcome in outcomes:
        print(outcome.path)


def _draw(outcomes: Sequence[Outcome]) -> None:
    """Pictures of benchmarks that are for looking at, beside the records."""
    from asap_eval.report.pictures.kinds import DRAWN, write  # matplotlib takes its time

    made = [(outcome.path, outcome.record) for outcome in outcomes]
    for bench in {record.job.bench for _, record in made} & set(DRAWN):
        for figure in DRAWN[bench](made):
            for path in write(figure, made[0][0].parent / "pictures"):
                say(f"Picture: {path}")


def _found(results: Sequence[Result]) -> list[Found]:
    return [
        Found(r.entry, r.outcome.record if r.outcome else None, r.reason, r.model)
        for r in results
        if r.entry
    ]


def remarks(record: RunRecord) -> list[str]:
    """What a reader of a row must not miss."""
    job, found = record.job, []
    failures = record.provenance.failures
    if failures:
        named = "; ".join(failure["message"] for failure in failures[:SHOWN])
        more = f"; and {len(failures) - SHOWN} more" if len(failures) > SHOWN else ""
        counted = "count as wrong" if record.metrics or record.tasks else "are left out"
        found.append(
            f"{job.method}: {len(failures)} of {record.provenance.data['n']} samples failed and "
            f"{counted}: {named}{more}. The record lists them."
        )
    if job.method != "none" and not _acted(record):
        found.append(f"{job.method}: no image was reduced at any block; these options never fire.")
    calibration = record.provenance.calibration
    if calibration and calibration.note:
        found.append(f"{job.method}: {calibration.note}.")
    if calibration and not calibration.disjoint:
        found.append(
            f"{job.method}: no images are left to calibrate on, so the knob was searched on "
            f"{calibration.samples} of the evaluated ones."
        )
    devices = sorted({worker["device"] for worker in record.provenance.workers})
    if len(devices) > 1:
        found.append(
            f"{job.method}: computed on {' and '.join(devices)}; predictions of a few samples may "
            "differ between them."
        )
    return found + _of_training(record)


def _acted(record: RunRecord) -> bool:
    """Whether a method changed what any image's blocks computed.

    A method need not reduce for that: tokens that skip a block (`Reducer.runs`) save the model's
    own work, and what stands in the place of a block's attention or MLP is counted as the
    method's own.
    """
    fired, macs = record.fired, record.macs
    if macs is None or fired is None or any(fired.histogram.values()):
        return True
    method = METHODS.get(record.job.method)
    replaces = method.attends is not Reducer.attends or method.feeds is not Reducer.feeds
    return macs.mean_g != macs.baseline_g or (replaces and macs.method_g != 0)


def _of_training(record: RunRecord) -> list[str]:
    """What to know of predictors and weights that a checkpoint brings."""
    found, said = [], record.provenance.method
    weights, source = record.provenance.weights, record.provenance.data["source"]
    if left_out := weights.get("left_out"):
        found.append(f"{weights['name']}: {left_out} are not part of the model and were left out.")
    if said.get("backbone_sha256") not in (None, weights["sha256"]):
        found.append(
            f"{record.job.method}: the predictors were trained on other weights, "
            f"{said['backbone']}."
        )
    if said.get("data") == source:
        found.append(
            f"{record.job.method}: the predictors were trained on images of {source} too; a row on "
            "images seen in training is not a fair one."
        )
    return found


def _baseline(outcome: Outcome) -> RunRecord | None:
    """The record a run was compared with, from the same folder."""
    block, job = outcome.record.baseline, outcome.record.job
    if block is None:
        return None
    try:
        return read_record(outcome.path.with_name(f"{record_stem(job.baseline(), block.key)}.json"))
    except RecordError as error:
        warn(str(error))
        return None
