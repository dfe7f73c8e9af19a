"""What a store is: labelled samples of one place, read by their number.

A store knows the id and the label of every image without decoding one, and reads the bytes of any
image by its place. timm's own data sets skip images they cannot decode (the next one takes their
place, or none); here every stored image counts, so only timm's readers of addresses are used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from asap_eval.files.archive import AnyPath
from asap_eval.files.fingerprint import content_of


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


class FileStore(ABC):
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
