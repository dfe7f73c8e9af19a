"""The same rows on other images: what each method lost there, in a column of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asap_eval.report.layouts.columns import Column, Row, numbers, present
from asap_eval.report.sheet import DASH


@dataclass(frozen=True)
class Beside:
    """What a table's lines came to on other images.

    Attributes:
        data, n: which images, and how many. lines: their rows, by what names a line.
    """

    data: str
    n: int
    lines: Mapping[str, Row]

    @property
    def column(self) -> Column:
        """Δ there, of the line that a row says it is (``line``)."""
        head = f"Δ on {self.data}, n={self.n}"
        return Column(head, self._change, wide=True, measured=False)

    def _change(self, row: Row) -> str:
        there = self.lines.get(row["line"])
        if there is None:
            return DASH
        return numbers(there, "{:+.2f} [{:+.2f}, {:+.2f}]", "delta_top1", "delta_low", "delta_high")

    @property
    def note(self) -> str:
        """What the column is, and the unpruned model's accuracy there."""
        whole = next((row for row in self.lines.values() if row["method"] == "none"), None)
        reaches = ""
        if whole is not None and present(whole["top1"]):
            reaches = f"; the unpruned model reaches {whole['top1']:.2f} % there"
        return (
            f"Δ on {self.data}: the same rows on {self.n} other images, each with its own knob for "
            f"the budget{reaches}."
        )
