"""Records that earlier runs left: which are finished, which can be resumed, which are damaged."""

from __future__ import annotations

from pathlib import Path

from asap_eval.errors import RecordError
from asap_eval.files.digests import file_sha256
from asap_eval.record import SAMPLES_SUFFIX, RunRecord, read_record
from asap_eval.record.journal import Journal, Rows, Stored
from asap_eval.runner.progress import warn

Kept = tuple[Path, RunRecord]
"""A record and the file it stands in."""


def finished(path: Path) -> RunRecord | None:
    """The record of a job that is done, its files as it left them; None where there is none."""
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except RecordError:
        return None
    return record if record.status == "done" and damage(path, record) is None else None


def interrupted(path: Path) -> RunRecord | None:
    """The record of a run that began and did not finish; warns of one that is of no use."""
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except RecordError as error:
        warn(f"{error} The job runs again.")
        return None
    if record.status != "done":
        return record
    if why := damage(path, record):
        warn(f"{why} The job of {path.name} runs again.")
    return None  # whatever is left of its rows cannot be trusted


def damage(path: Path, record: RunRecord) -> str | None:
    """What is wrong with the files beside a finished record; None where nothing is."""
    for name, sha256 in (record.files or {}).items():
        try:
            if file_sha256(path.with_name(name)) != sha256:
                return f"{path.with_name(name)} is damaged: it is not what the run left."
        except OSError as error:
            return f"{path.with_name(name)} cannot be read: {error.strerror}."
    if record.files is None and not journal_of(path).path.exists():
        return f"{journal_of(path).path} is gone."
    return None


def files_of(path: Path, record: RunRecord) -> dict[str, str]:
    """sha256 of the files beside a record, by name."""
    names = (record.samples, record.arrays)
    return {name: file_sha256(path.with_name(name)) for name in names if name is not None}


def rows_of_baseline(kept: Kept) -> Rows:
    """The rows of the finished record of an unpruned model.

    Raises:
        RecordError: they are no longer those that it was made of.
    """
    path, record = kept
    if why := damage(path, record):
        raise RecordError(
            f"The unpruned model's samples changed while this job ran: {why} Give the same command "
            "again: it makes them anew, and goes on where this job stopped."
        )
    return Stored(journal_of(path), record.provenance.data["n"])


def journal_of(path: Path) -> Journal:
    """The per-sample file beside a record."""
    return Journal(path.with_name(path.name.removesuffix(".json") + SAMPLES_SUFFIX))
