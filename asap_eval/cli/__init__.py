"""Commands: ``asap-eval``, and a module or a folder for each of the others."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """``asap-eval``; the other commands start without what a run needs."""
    from asap_eval.cli.command import main as run

    return run(argv)
