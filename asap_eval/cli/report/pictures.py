"""``asap-report pictures results=<folder> out=<folder>``: a folder of records as pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from asap_eval.cli.key_value import settings_of
from asap_eval.errors import AsapEvalError, BadValueError, UnknownNameError
from asap_eval.report.pictures.kinds import pictures

DEFAULTS = {"results": "results", "out": "figures"}


def main(words: Sequence[str]) -> int:
    """Write the pictures; standard output gets their paths, standard error what is missing.

    Returns:
        1 where none can be made, 2 where a word is not understood.
    """
    try:
        given = settings_of(words, DEFAULTS, "asap-report pictures")
        drawn = pictures(Path(given["results"]), Path(given["out"]))
    except AsapEvalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (BadValueError, UnknownNameError)) else 1
    except OSError as error:
        print(f"error: {error.filename} cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    for problem in drawn.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    for missing in drawn.missing:
        print(f"not drawn: {missing}", file=sys.stderr)
    for path in drawn.paths:
        print(path)
    return 0
