"""Rows of a command line handed to workers (``launch=``), and what they made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asap_eval.cli.experiment import Row
from asap_eval.cli.settings import Settings
from asap_eval.errors import BadValueError
from asap_eval.launch.devices import RANK, first_of
from asap_eval.launch.head import Asked, spread
from asap_eval.launch.launch import Launch
from asap_eval.runner import Outcome
from asap_eval.runner.piece import Opening

Found = Outcome | Exception
"""What became of a row."""


def opening_of(settings: Settings) -> Opening:
    """How jobs of these settings are opened on a machine."""
    return Opening(
        loaders=settings.workers,
        cache=settings.cache,
        imagenet=settings.imagenet,
        plugins=_plugins(settings),
    )


def spread_rows(rows: Sequence[Row], made: set[Path]) -> list[Found | None]:
    """Run rows by workers; of each what became of it, None where it cannot run.

    Raises:
        BadValueError: they are not for the same workers, or not in one folder.
    """
    able = [row for row in rows if row.settings is not None]
    every = [row.settings for row in able if row.settings is not None]
    if not every:
        return [None] * len(rows)
    for what, values in (
        ("launch", [(s.launch, opening_of(s)) for s in every]),
        ("results", [s.results for s in every]),
    ):
        if any(value != values[0] for value in values):
            raise BadValueError(f"One list of workers needs one {what}= for all rows.")
    asked = [
        Asked(s.job, s.results, s.force, opening_of(s), s.config, row.overrides)
        for row, s in zip(able, every, strict=True)
    ]
    found = iter(spread(asked, every[0].launch, made))
    return [None if row.settings is None else next(found) for row in rows]


def outcome_of(found: Found) -> Outcome:
    """The outcome of a row; what is wrong with it is raised."""
    if isinstance(found, Exception):
        raise found
    return found


def shows(launch: Launch | None) -> bool:
    """Whether this process prints the table: of several that joined, the first one."""
    return launch is None or launch.kind != "join" or not first_of(RANK)


def _plugins(settings: Settings) -> tuple[str, ...]:
    """Files by their whole path: a worker may begin in another folder."""
    given = settings.config.get("plugins") or []
    names = [given] if isinstance(given, str) else list(given)
    return tuple(str(Path(name).resolve()) if Path(name).exists() else name for name in names)
