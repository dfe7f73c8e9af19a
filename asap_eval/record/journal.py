"""The per-sample file beside a record: one line per sample, kept through any kind of stop.

Statistics take all rows of a run as `Rows`, which they may go through as often as they want: a
list, or the file itself, of which no more than a few rows are in memory at a time.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from asap_eval.errors import RecordError

Row = dict[str, Any]
"""One sample; ``id`` is always there, the rest is the benchmark's."""
Rows = Collection[Row]
"""All samples of a run, or some of them, in order."""
TOGETHER = 512
"""Lines that are read at once."""


class Journal:
    """Appended after every batch and synchronised to the disk, so that no batch counts twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resume(self, ids: Sequence[str], ends: Sequence[int]) -> list[Row]:
        """The rows of whole batches; whatever follows them is cut off the file.

        Args:
            ids: all samples of the run in order. ends: samples done after each whole batch.
        """
        if not self.path.exists():
            return []
        rows: list[Row] = []
        bytes_at = [0]
        with self.path.open("rb") as file:
            for line, expected in zip(file, ids, strict=False):
                row = _row(line)
                if row is None or row["id"] != expected:
                    break
                rows.append(row)
                bytes_at.append(bytes_at[-1] + len(line))
        before = [0, *ends, len(ids)]
        whole = max(end for end in before if end <= len(rows))
        with self.path.open("rb+") as file:
            file.truncate(bytes_at[whole])
        return rows[:whole]

    def append(self, rows: Sequence[Row]) -> None:
        """Add one batch."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        with self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Row]:
        """All rows of a finished run.

        Raises:
            RecordError: the file is missing or a line of it is broken.
        """
        return list(self.lines())

    def lines(self) -> Iterator[Row]:
        """The rows of a finished run one after the other; errors as `read`."""
        done = 0
        try:
            with self.path.open("rb") as file:
                while lines := list(itertools.islice(file, TOGETHER)):
                    yield from _together(lines) or self._one_by_one(lines, done)
                    done += len(lines)
        except OSError as error:
            raise RecordError(
                f"Cannot read the per-sample file {self.path}: {error.strerror}."
            ) from error

    def _one_by_one(self, lines: Sequence[bytes], before: int) -> list[Row]:
        """Rows of lines one of which may be broken; ``before`` are read already."""
        found = []
        for number, line in enumerate(lines, before + 1):
            if (row := _row(line)) is None:
                raise RecordError(f"{self.path}: line {number} is broken.")
            found.append(row)
        return found

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Stored(Collection[Row]):
    """The rows of a whole file, read whenever they are asked for."""

    def __init__(self, journal: Journal, count: int) -> None:
        """As of a file that is known to hold ``count`` rows.

        Going through them raises `RecordError` where it holds others.
        """
        self._journal, self._count = journal, count

    def __iter__(self) -> Iterator[Row]:
        done = 0
        for row in self._journal.lines():
            done += 1
            yield row
        if done != self._count:
            raise RecordError(f"{self._journal.path} has {done} samples, not {self._count}.")

    def __len__(self) -> int:
        return self._count

    def __contains__(self, row: object) -> bool:
        return any(row == one for one in self)


class Chosen(Collection[Row]):
    """Those of other rows that a condition holds for."""

    def __init__(self, rows: Rows, holds: Callable[[Row], bool], count: int) -> None:
        """As of rows of which it holds for ``count``."""
        self._rows, self._holds, self._count = rows, holds, count

    def __iter__(self) -> Iterator[Row]:
        return filter(self._holds, self._rows)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, row: object) -> bool:
        return any(row == one for one in self)


def _together(lines: Sequence[bytes]) -> list[Row] | None:
    """Lines as rows that share the names of their keys, a third of the memory; None where a line is
    torn or foreign."""
    whole = all(line.startswith(b"{") and line.endswith(b"}\n") for line in lines)
    try:
        rows = json.loads(b"[%s]" % b",".join(lines)) if whole else []
    except ValueError:
        return None
    same = len(rows) == len(lines) and all(isinstance(r, dict) and "id" in r for r in rows)
    return rows if same else None


def _row(line: bytes) -> Row | None:
    """A line as a row; None where it is torn or foreign."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "id" in row else None
