"""What a store is: labelled samples of one place, read by their number.

A store knows the id and the label of every image without decoding one, and reads the bytes of any
image by its place. timm's own data sets skip images they cannot decode (the next one takes their
place, or none); here every stored image counts, so only timm's readers of addresses are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


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

    def read(self, place: int) -> bytes:
        """The encoded image; raises `OSError` or `DataError` where it cannot be read."""
        ...

    def content(self, places: Sequence[int]) -> str:
        """Hash that changes with the bytes of these images, wherever they lie (`fingerprint`)."""
        ...
