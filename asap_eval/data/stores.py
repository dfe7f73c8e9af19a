"""What a store is: labelled samples of one place, read by their number.

A store knows the id and the label of every image without decoding one, and reads the bytes of any
image by its place. timm's own data sets skip images they cannot decode (the next one takes their
place, or none); here every stored image counts, so only timm's readers of addresses are used.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

from asap_eval.files.archive import AnyPath
from asap_eval.files.fingerprint import content_of


@dataclass(frozen=True)
class Located:
    """Where a store's samples lie, so that one who is told can read them without looking.

    Attributes:
        kind: ``files`` = a sample is a file; ``bytes`` = a stretch of one (tar); ``rows`` = a row
            of a parquet file. files: paths of this disk. column: of the image in ``rows``.
        parts: of each sample the number of its file, and first byte and bytes, or row and 1, or
            zeros; None = it has no image.
    """

    kind: Literal["files", "bytes", "rows"]
    files: list[str]
    parts: list[tuple[int, int, int] | None]
    column: str = ""


class Store(Protocol):
    """Every image of one place, in its stored order (folders: sorted by path).

    Attributes:
        ids: path relative to the folder, or the stored index.
        labels: class numbers; None = the image has none.
        notes: what a reader has to know of them, a line each.
    """

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[int | None]: ...

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def commits(self) -> Mapping[str, str]:
        """Commits of the hub's repositories that the samples are from, by their names."""
        ...

    def read(self, place: int) -> bytes:
        """The encoded image; raises `OSError` or `DataError` where it cannot be read."""
        ...

    def content(self, places: Sequence[int]) -> str:
        """Hash that changes with the bytes of these images, wherever they lie (`fingerprint`)."""
        ...

    def check(self, places: Sequence[int]) -> None:
        """Raise `DataError` where these images are not those whose `content` was said; only a
        listing that somebody else wrote (`asap_eval.data.listed`) has to look."""
        ...

    def located(self) -> Located | None:
        """Where the images lie; None = only this store can read them."""
        ...


class OwnStore:
    """What stores share that looked at their samples themselves."""

    def check(self, places: Sequence[int]) -> None:
        """Nothing: what `content` says was seen here."""


class FileStore(OwnStore, ABC):
    """What stores share whose samples are files, of the disk or an archive, one each."""

    commits: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, ids: Sequence[str], labels: Sequence[int | None], notes: Sequence[str] = ()
    ) -> None:
        self.ids, self.labels, self.notes = ids, labels, notes

    @abstractmethod
    def path(self, place: int) -> AnyPath:
        """Where the file of a sample lies."""

    def read(self, place: int) -> bytes:
        """The encoded sample."""
        return self.path(place).read_bytes()

    def content(self, places: Sequence[int]) -> str:
        """Hash of what the files hold."""
        return content_of(map(self.path, places))

    def located(self) -> Located | None:
        """Each sample is a file; those in an archive are read through it alone."""
        paths = [self.path(place) for place in range(len(self.ids))]
        if not all(isinstance(path, Path) for path in paths):
            return None
        files = [os.path.abspath(str(path)) for path in paths]
        return Located("files", files, [(at, 0, 0) for at in range(len(files))])
