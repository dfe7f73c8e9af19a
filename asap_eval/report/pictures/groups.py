"""Records as lines that may stand in one picture: those of one table, seeds averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asap_eval.record import RunRecord
from asap_eval.report.experiment.lines import over_seeds
from asap_eval.report.frame import GROUP, frame
from asap_eval.report.layouts.columns import Row, name_of, number, present
from asap_eval.report.pictures.figure import Found


@dataclass(frozen=True)
class Line:
    """Records that differ in their seed alone.

    Attributes:
        row: of the frame, with means over the seeds. found: the records.
    """

    row: Row
    found: list[Found]

    @property
    def label(self) -> str:
        """Method and settings, and how many seeds there are."""
        seeds = f" ({len(self.found)} seeds)" if len(self.found) > 1 else ""
        return name_of({**self.row, "seed": 0}) + seeds

    @property
    def record(self) -> RunRecord:
        """The first of its records."""
        return self.found[0][1]


@dataclass(frozen=True)
class Group:
    """Lines that may be compared.

    Attributes:
        name: part of a file's name, unlike that of any other group. title: in words.
        lines: the unpruned model first.
    """

    name: str
    title: str
    lines: list[Line]


def groups(records: Sequence[Found]) -> list[Group]:
    """All finished records by what may be compared, in an order that their content decides."""
    done = {record.key: (path, record) for path, record in records if record.status == "done"}
    if not done:
        return []
    table = frame([record for _, record in done.values()])
    found: list[Group] = []
    for _, part in table.groupby(GROUP, dropna=False, sort=False):
        rows = part.to_dict("records")
        lines: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            lines.setdefault(_setting(row), []).append(row)
        made = [
            Line(over_seeds(same), [done[str(row["key"])] for row in same])
            for same in lines.values()
        ]
        found.append(Group(_name(rows[0], found), _title(rows[0]), made))
    return found


def _setting(row: Row) -> tuple[Any, ...]:
    """Equal for rows that differ in their seed alone; a budget finds a knob for every seed."""
    budget = present(row["target"])
    names = ("method", "options", "budget", "target", *(() if budget else ("k",)))
    return tuple(str(row[name]) for name in names)


def _title(first: Row) -> str:
    words = [first["model"], first["bench"], f"{number(first['n'], '{:.0f}')} images"]
    if first["trained"] is False:
        words.append("random weights, not comparable")
    return " · ".join(map(str, [*words, first["dtype"]]))


def _name(first: Row, others: Sequence[Group]) -> str:
    name = f"{first['model']}-{first['bench']}-{number(first['n'], '{:.0f}')}"
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    taken = {other.name for other in others}
    numbered = (f"{name}-{again}" for again in range(2, len(others) + 3))
    return name if name not in taken else next(n for n in numbered if n not in taken)


def beside(path: Path, name: str | None) -> Path | None:
    """The file beside a record that it names; None where it names none or it is not there."""
    file = path.with_name(name) if name else None
    return file if file is not None and file.is_file() else None
