"""The records of a folder as tables: one for all that may be compared, or an experiment's own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from asap_eval.cli.report.options import Asked
from asap_eval.errors import AsapEvalError, BadValueError, RecordError
from asap_eval.experiment import Experiment, load
from asap_eval.record import RunRecord
from asap_eval.report.experiment.match import matched
from asap_eval.report.experiment.tables import experiment_frame, experiment_tables, lines_beside
from asap_eval.report.frame import frame
from asap_eval.report.layouts.overview import overview
from asap_eval.report.paper.claims import claims, read_timing
from asap_eval.report.readable import readable
from asap_eval.report.sheet import Sheet
from asap_eval.report.text import as_text, save
from asap_eval.report.text import show as shown


def show(asked: Asked) -> None:
    """Print or write the tables.

    Raises:
        BadValueError: no such folder, or reports that do not go together. RecordError: no record.
    """
    records = _records(asked.results, asked.model)
    beside = _records(asked.beside, asked.model) if asked.beside else []
    experiment = load(asked.experiment) if asked.experiment else None
    if experiment is not None and asked.model:
        experiment = experiment.on(asked.model)
    timing = [row for path in asked.clustering for row in read_timing(path)]
    own = claims(records, timing) if asked.claims else []
    if asked.format == "rich" and asked.out is None:
        shown(own or sheets_of(records, experiment, beside), wide=asked.wide)
        return
    text = as_text(own, asked.format) if own else render(records, asked.format, experiment, beside)
    if asked.out is None:
        sys.stdout.write(text)
        return
    try:
        save(text, asked.out)
    except OSError as error:
        raise AsapEvalError(f"{asked.out} cannot be written: {error.strerror}.") from error


def _records(folder: Path, model: str | None) -> list[RunRecord]:
    """The readable records of a folder, of one model or of all; what is skipped is said."""
    if not folder.is_dir():
        raise BadValueError(f"No folder {folder}: give the folder that results went to.")
    found, problems = readable(folder)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    records = [record for _, record in found if model in (None, record.job.model)]
    if not records:
        of = f" of model {model}" if model else ""
        raise RecordError(f"No record{of} in {folder}: run asap-eval first.")
    return records


def sheets_of(
    records: Sequence[RunRecord],
    experiment: Experiment | None,
    beside: Sequence[RunRecord] = (),
) -> list[Sheet]:
    """The overview of all records, or an experiment's own tables of those that are its rows.

    Args:
        beside: records of the same experiment on other images.
    """
    if experiment is None:
        return overview(records)
    found = matched(experiment, records)
    return experiment_tables(experiment, found, records, lines_beside(experiment, beside))


def render(
    records: Sequence[RunRecord],
    form: str,
    experiment: Experiment | None = None,
    beside: Sequence[RunRecord] = (),
) -> str:
    """The tables in a format; the same records always give the same text.

    Args:
        records: at least one. form: ``rich``, ``markdown`` or ``csv`` (raw numbers, one table).
        beside: records of the same experiment on other images; not in ``csv``.
    """
    if form != "csv":
        return as_text(sheets_of(records, experiment, beside), form)
    if experiment is None:
        rows = frame(records)
    else:
        rows = experiment_frame(experiment, matched(experiment, records), records)
    return rows.to_csv(index=False, lineterminator="\n")
