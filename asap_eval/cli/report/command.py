"""``asap-eval report``: the records of a folder as tables, pictures or a page.

Nothing that ``--help`` needs imports torch or pandas.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from asap_eval.cli.report.options import ABOUT, Asked
from asap_eval.cli.words import asks_for_help, command
from asap_eval.errors import BadValueError

COMMANDS = {
    "cases": "asap_eval.cli.report.cases",
    "diff": "asap_eval.cli.report.diff",
    "html": "asap_eval.cli.report.page",
    "pictures": "asap_eval.cli.report.pictures",
}
"""First words that are another command, and the module that runs it: ``main(argv)``. Loaded when
asked for; a folder of one of these names is given as ``./diff``."""
PAPER = "asap_eval.cli.report.paper"
"""What runs ``all``, ``audit`` and ``table=``."""


def main(argv: Sequence[str]) -> int:
    """Print or write the tables; 2 where the call is wrong, 1 where nothing can be made."""
    words = list(argv)
    if words and words[0] in COMMANDS:
        return int(importlib.import_module(COMMANDS[words[0]]).main(words[1:]))
    if asks_for_paper(words) and not asks_for_help(words):
        if "=" not in words[0] and not words[0].startswith("-"):
            words[0] = f"table={words[0]}"
        return int(importlib.import_module(PAPER).main(words))
    return command(words, Asked, "report", ABOUT, _shown, places=["results"])


def _shown(asked: Asked) -> None:
    if asked.claims and asked.format == "csv":
        raise BadValueError("claims=true has no csv form: use format=markdown.")
    if asked.claims and asked.experiment:
        raise BadValueError("claims= and experiment= are two reports: ask for one of them.")
    if asked.clustering and not asked.claims:
        raise BadValueError("clustering= is for claims=true.")
    if asked.beside and not asked.experiment:
        raise BadValueError("beside= goes with experiment=: its rows are found in both folders.")
    from asap_eval.cli.report.tables import show  # with pandas

    show(asked)


def asks_for_paper(words: Sequence[str]) -> bool:
    """Whether a command line begins with a verb of the paper's, or names one of its tables.

    A folder of such a name is given as ``./all``; one with a sign of equality is a folder.
    """
    named = (w for w in words if w == "--table" or w.startswith(("table=", "--table=")))
    return words[:1] in (["all"], ["audit"]) or any(not Path(w).exists() for w in named)
