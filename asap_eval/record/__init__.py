"""The only definition of a result: the job that was asked for and the record it leaves.

Records are JSON, ``schema: 1``. Percentages run from 0 to 100, work is in GMACs, times in seconds
unless a name says otherwise.
"""

from asap_eval.record.files import read_record, read_records, write_record
from asap_eval.record.job import (
    LAYER_MEAN,
    SAMPLES_SUFFIX,
    SCHEMA,
    Budget,
    Count,
    Job,
    Quantity,
    ids_digest,
    job_key,
)
from asap_eval.record.result import (
    Baseline,
    Calibration,
    Counted,
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
    "LAYER_MEAN",
    "SAMPLES_SUFFIX",
    "SCHEMA",
    "Baseline",
    "Budget",
    "Calibration",
    "Count",
    "Counted",
    "Fired",
    "Job",
    "Macs",
    "Metrics",
    "Paired",
    "Provenance",
    "Quantity",
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
