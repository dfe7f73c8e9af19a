"""The only definition of a result: the job that was asked for and the record it leaves.

Records are JSON, ``schema: 1``. Percentages run from 0 to 100, work is in GMACs, times in seconds
unless a name says otherwise.
"""

from asap_eval.record.files import read_record, read_records, write_record
from asap_eval.record.job import SAMPLES_SUFFIX, SCHEMA, Budget, Job, ids_digest, job_key
from asap_eval.record.result import (
    Baseline,
    Calibration,
    Fired,
    Macs,
    Metrics,
    Paired,
    Provenance,
    RunRecord,
    Status,
    Tokens,
    record_stem,
)

__all__ = [
    "SAMPLES_SUFFIX",
    "SCHEMA",
    "Baseline",
    "Budget",
    "Calibration",
    "Fired",
    "Job",
    "Macs",
    "Metrics",
    "Paired",
    "Provenance",
    "RunRecord",
    "Status",
    "Tokens",
    "ids_digest",
    "job_key",
    "read_record",
    "read_records",
    "record_stem",
    "write_record",
]
