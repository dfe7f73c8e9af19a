"""``asap-eval report pictures``: the records of a folder as PNG and SVG."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asap_eval.cli.words import command
from asap_eval.errors import AsapEvalError
from asap_eval.report.pictures.kinds import pictures


@dataclass
class Asked:
    """What is drawn, and where to."""

    results: Path = Path("results")  # folder of records
    out: Path = Path("figures")  # folder of the pictures


def main(words: Sequence[str]) -> int:
    """Write the pictures; standard output gets their paths, standard error what is missing.

    Returns:
        1 where none can be made, 2 where a word is not understood.
    """
    return command(words, Asked, "report pictures", str(__doc__), _drawn)


def _drawn(asked: Asked) -> None:
    try:
        drawn = pictures(asked.results, asked.out)
    except OSError as error:
        raise AsapEvalError(f"{error.filename} cannot be written: {error.strerror}.") from error
    for problem in drawn.problems:
        print(f"skipped: {problem}", file=sys.stderr)
    for missing in drawn.missing:
        print(f"not drawn: {missing}", file=sys.stderr)
    for path in drawn.paths:
        print(path)
