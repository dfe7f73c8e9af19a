"""A listing of samples: written once by who begins a job, read by every worker of it.

A worker neither walks folders nor indexes shards nor hashes what lies there: it takes names, labels
and places from the listing, and opens a file when it reads a sample of it. Before it reads the
samples of a piece it looks whether their files still have the size and time that they had when they
were hashed (`ListedStore.check`); so all pieces together have looked at every file.

Stores that cannot be listed (archives, data sets of the hub) are opened by every worker itself.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from asap_eval.data.decoding import bytes_of
from asap_eval.data.shards.members import Part
from asap_eval.data.stores import Located, Store
from asap_eval.errors import DataError
from asap_eval.files.fingerprint import content_of
from asap_eval.files.placed import placed

_OPEN = 2
"""Row groups of parquet files that a process keeps: samples are read in order."""

_written: dict[str, str | None] = {}
"""The latest listing of this process, by the samples it is of."""

_trusted: ContextVar[Path | None] = ContextVar("trusted listing", default=None)


@contextmanager
def trusting(listing: Path | None) -> Iterator[None]:
    """Inside the ``with`` the samples that a listing is of are taken from it; None = from none."""
    token = _trusted.set(listing)
    try:
        yield
    finally:
        _trusted.reset(token)


def trusted(data: str) -> ListedStore | None:
    """The store of an address, where the listing that is trusted here has it."""
    path = _trusted.get()
    if path is None:
        return None
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return ListedStore(body) if body["data"] == data else None


def write_listing(
    path: Path, data: str, store: Store, contents: Sequence[tuple[Sequence[int], str]]
) -> None:
    """Write the listing of a store, if it can be listed.

    Args:
        data: its address. contents: places of samples, and the hash of what is stored of them as it
            was found before; where it is another by now nothing is written.
    """
    said = [[_of(places), content] for places, content in contents]
    about = json.dumps([data, said, list(store.ids), list(store.labels)])
    key = hashlib.sha256(about.encode()).hexdigest()
    if key not in _written:  # rows of a table have the same samples
        _written.clear()
        _written[key] = _listing(data, store, contents)
    if (text := _written[key]) is not None:
        with placed(path) as part:
            part.write_text(text, encoding="utf-8")
    else:  # only then: a worker of an earlier command may be about to read it
        path.unlink(missing_ok=True)


def _listing(data: str, store: Store, contents: Sequence[tuple[Sequence[int], str]]) -> str | None:
    """The text of a listing; None where there can be none."""
    located = store.located()
    if located is None:
        return None
    try:
        stamps = [_stamp(Path(file)) for file in located.files]
    except OSError:
        return None  # a missing file is a failed sample, and one that is not there has no time
    # After the stamps: what is hashed is no older than they are.
    if any(store.content(places) != content for places, content in contents):
        return None
    body = {
        "data": data,
        "kind": located.kind,
        "column": located.column,
        "files": located.files,
        "stamps": stamps,
        "parts": located.parts,
        "ids": list(store.ids),
        "labels": list(store.labels),
        "notes": list(store.notes),
        "commits": dict(store.commits),
        "contents": {_of(places): content for places, content in contents},
    }
    return json.dumps(body, separators=(",", ":"))


class ListedStore:
    """A store as a listing has it."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.ids: list[str] = body["ids"]
        self.labels: list[int | None] = body["labels"]
        self.notes: list[str] = body["notes"]
        self.commits: dict[str, str] = body["commits"]
        self._kind, self._column = body["kind"], body["column"]
        self._files = [Path(file) for file in body["files"]]
        self._stamps: list[list[int]] = body["stamps"]
        self._parts: list[list[int] | None] = body["parts"]
        self._contents: dict[str, str] = body["contents"]

    def read(self, place: int) -> bytes:
        """The encoded image; errors as `Store.read`."""
        part = self._parts[place]
        if part is None:
            raise DataError("the sample has no image file")
        number, at, size = part
        if self._kind == "files":
            return self._files[number].read_bytes()
        if self._kind == "bytes":
            with self._files[number].open("rb") as file:
                return Part(at, size).read(file)
        return _cell(str(self._files[number]), self._column, at)

    def content(self, places: Sequence[int]) -> str:
        """The hash that the listing has of these samples, or of the bytes of their files."""
        known = self._contents.get(_of(places))
        if known is not None:
            return known
        return content_of(self._files[number] for number in self._files_of(places))

    def check(self, places: Sequence[int]) -> None:
        """Raise `DataError` where a file of these samples is not the one that was listed."""
        for number in self._files_of(places):
            file, was = self._files[number], self._stamps[number]
            try:
                now = _stamp(file)
            except OSError as error:
                raise DataError(
                    f"{file} is not here ({error.strerror}), and it was where the command began. "
                    "Give all machines the same data, by a path that all of them see."
                ) from error
            if now != was:
                raise DataError(
                    f"{file} has other bytes or another time than where the command began "
                    f"(size {now[0]}, not {was[0]}; or written since). Give the same command again "
                    "once nothing writes there; all machines need the same data."
                )

    def located(self) -> Located | None:
        """It is not listed again."""
        return None

    def _files_of(self, places: Sequence[int]) -> list[int]:
        return sorted({part[0] for place in places if (part := self._parts[place]) is not None})


def _stamp(file: Path) -> list[int]:
    """Size and time of a file."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _of(places: Sequence[int]) -> str:
    """A short name for some places."""
    digest = hashlib.sha256()
    for place in places:
        digest.update(f"{place},".encode())
    return digest.hexdigest()


def _cell(file: str, column: str, row: int) -> bytes:
    """The encoded image of one row of a parquet file.

    Raises:
        DataError: there is none.
    """
    starts = _groups(file)
    group = bisect_right(starts, row) - 1
    stored = _group(file, column, group)[row - starts[group]].as_py()
    if stored is None:
        raise DataError("the stored image is null")
    if not (content := bytes_of(stored)):
        raise DataError("the stored image is empty")
    return content


@lru_cache(maxsize=1024)
def _groups(file: str) -> list[int]:
    """First row of each row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        sizes = [opened.metadata.row_group(at).num_rows for at in range(opened.num_row_groups)]
    return [0, *accumulate(sizes[:-1])]


@lru_cache(maxsize=_OPEN)
def _group(file: str, column: str, group: int) -> Any:
    """One column of one row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        return opened.read_row_group(group, columns=[column]).column(column)
