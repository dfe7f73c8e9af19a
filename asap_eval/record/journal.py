"""The per-sample file beside a record: one line per sample, kept through any kind of stop."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asap_eval.errors import RecordError

Row = dict[str, Any]
"""One sample; ``id`` is always there, the rest is the benchmark's."""


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
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise RecordError(
                f"Cannot read the per-sample file {self.path}: {error.strerror}."
            ) from error
        rows = [_row(line) for line in lines]
        if None in rows:
            raise RecordError(f"{self.path}: line {rows.index(None) + 1} is broken.")
        return [row for row in rows if row is not None]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _row(line: bytes) -> Row | None:
    """A line as a row; None where it is torn or foreign."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "id" in row else None
