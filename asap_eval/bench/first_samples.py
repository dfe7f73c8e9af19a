"""Ends a run whose first samples all fail alike.

Then the set-up is at fault and not the samples, and the rest would fail, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asap_eval.errors import SetUpError
from asap_eval.record.journal import Journal, Row

ENOUGH = 8
"""First samples that have to fail alike; fewer may be damaged files that lie side by side."""


class FirstSamples:
    """Watches a run from its first sample on, until one of them is measured or fails otherwise."""

    def __init__(self) -> None:
        self._failed = 0
        self._why: str | None = None
        self._watching = True

    def see(self, samples: Iterable[tuple[str, str | None]]) -> None:
        """The next samples: of each its id, and what is wrong with it.

        Raises:
            SetUpError: a whole batch and at least `ENOUGH` samples failed, and nothing else was
                seen before.
        """
        for name, error in samples:
            why = None if error is None else error.replace(name, "<sample>")
            if why is None or (self._why is not None and why != self._why):
                self._watching = False
            self._why = why
            self._failed += 1
        if self._watching and self._failed >= ENOUGH:
            raise SetUpError(
                f"Each of the first {self._failed} samples fails alike ({self._why}), so the rest "
                "would, too: something is wrong with the data, the model or what is installed. "
                "Mend it and give the same command again; nothing was kept of these samples."
            )


def see_rows(first: FirstSamples, rows: Sequence[Row], journal: Journal) -> None:
    """`FirstSamples.see` of rows that are about to be kept: where all fail alike none is."""
    try:
        first.see((row["id"], row["error"]) for row in rows)
    except SetUpError:
        journal.remove()
        raise
