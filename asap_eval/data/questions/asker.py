"""What the questions of a run need of a task: documents in a fixed order, and who asks of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from PIL import Image

from asap_eval.data.questions.tasks import Document, Task


class Asker(Protocol):
    """Makes a prompt of a document, and says how long an answer may be."""

    @property
    def task(self) -> Task: ...

    @property
    def new_tokens(self) -> int:
        """Most tokens of an answer."""
        ...

    def prompt(self, document: Document) -> str:
        """The question as the model reads it, without a chat template."""
        ...

    def picture(self, document: Document, picture: Image.Image) -> Image.Image:
        """The picture as it is shown; `DataError` where none or several are."""
        ...


AnyAsker = TypeVar("AnyAsker", bound=Asker)


class Source(Protocol):
    """Documents of a task, of which the pictures are read one by one."""

    @property
    def task(self) -> Task: ...

    @property
    def commits(self) -> Mapping[str, str]:
        """Commits of the hub's repositories that they are from, by their names."""
        ...

    def __len__(self) -> int: ...

    def texts(self) -> Iterator[dict[str, Any]]:
        """Every document without its picture."""
        ...

    def text(self, place: int) -> dict[str, Any]:
        """One document without its picture."""
        ...

    def picture(self, place: int) -> Image.Image:
        """The picture of a document in RGB, upright; `DataError` where there is none."""
        ...

    def content(self, places: Sequence[int]) -> str:
        """Hash that changes with what is stored of these documents."""
        ...
