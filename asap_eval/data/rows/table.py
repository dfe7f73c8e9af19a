"""What is read of a data set of `datasets`, whose own classes come without types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, overload


class Table(Protocol):
    """Rows by number, columns by name."""

    @property
    def column_names(self) -> list[str]: ...

    @property
    def features(self) -> Mapping[str, Any]:
        """Type of each column."""
        ...

    @property
    def cache_files(self) -> Sequence[Mapping[str, str]]:
        """Files that hold the rows, each by its ``filename``."""
        ...

    @property
    def data(self) -> Any:
        """The table of Arrow."""
        ...

    @property
    def info(self) -> Any:
        """What `datasets` noted when it made the rows."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: str) -> Sequence[Any]: ...

    def remove_columns(self, column_names: list[str]) -> Table: ...

    def cast_column(self, column: str, feature: object) -> Table: ...
