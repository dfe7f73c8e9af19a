"""``asap-report cases``: samples of a task whose answer a method fixed or broke.

    asap-report cases results=results task=pope most=20 format=markdown out=cases.md

results  folder of records (results)
task     of bench=vlm (pope)
most     cases of each outcome, 0 = all (20)
model    records of this model alone
method   records of this method alone
format   rich or markdown (rich)
out      file to write instead of the terminal

``asap-eval-cases`` draws what the method kept of their pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from asap_eval.cli.key_value import count_of, settings_of
from asap_eval.errors import AsapEvalError, BadValueError, RecordError, unknown
from asap_eval.record import read_records
from asap_eval.report.cases import Compared, compared
from asap_eval.report.text import as_text, save, show

CHOICE = {"results": "results", "task": "pope", "model": "", "method": ""}
"""Keys that say which cases are meant."""
DEFAULTS = {**CHOICE, "most": "20", "format": "rich", "out": ""}
FORMATS = ("rich", "markdown")


def main(words: Sequence[str]) -> int:
    """Print or write the tables; 2 where the call is wrong, 1 where nothing can be made."""
    if any(word in ("-h", "--help") for word in words):
        print(__doc__)
        return 0
    try:
        given = settings_of(words, DEFAULTS, "asap-report cases")
        if given["format"] not in FORMATS:
            raise unknown("format", given["format"], FORMATS)
        most = count_of("most", given["most"])
        sheets = [one.sheet(most) for one in chosen_cases(given)]
        if given["out"]:
            save(as_text(sheets, given["format"]), Path(given["out"]))
        else:
            show(sheets, given["format"])
    except AsapEvalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RecordError) else 2
    except OSError as error:
        print(f"{given['out']} cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


def chosen_cases(given: Mapping[str, str]) -> list[Compared]:
    """The cases that the keys of `CHOICE` ask for; what is no whole record is said and skipped.

    Raises:
        BadValueError: no such folder. RecordError: no such record, or its samples are missing.
    """
    folder, model, method = Path(given["results"]), given["model"], given["method"]
    if not folder.is_dir():
        raise BadValueError(f"No folder {folder}: give the folder that results went to.")
    found, problems = read_records(folder)
    for problem in problems:
        print(f"skipped: {problem}", file=sys.stderr)
    asked = [
        (path, record)
        for path, record in found
        if model in ("", record.job.model)
        # the unpruned records stay: the chosen ones are paired with them
        and (method in ("", record.job.method) or record.job.method == "none")
    ]
    return compared(asked, given["task"])
