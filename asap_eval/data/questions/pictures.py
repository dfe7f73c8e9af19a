"""A folder of pictures, each asked the same question: no data of a task is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from asap_eval.data.decoding import EXTENSIONS, decode_row, is_picture
from asap_eval.data.questions.question_set import Asked, QuestionSet
from asap_eval.data.questions.tasks import Task
from asap_eval.data.subset import Sample, subset
from asap_eval.errors import BadValueError, DataError
from asap_eval.files.archive import AnyPath, path_of, relative
from asap_eval.files.fingerprint import content_of

NEW_TOKENS = 16
"""Most tokens of an answer, as most tasks set it."""


@dataclass(frozen=True)
class Pictures:
    """The pictures below a folder in sorted order, as documents without an answer."""

    task: Task
    files: list[AnyPath]
    root: AnyPath

    def __len__(self) -> int:
        return len(self.files)

    @property
    def commits(self) -> Mapping[str, str]:
        """None: they are files of this disk."""
        return {}

    def texts(self) -> Iterator[dict[str, Any]]:
        """Every document without its picture."""
        return (self.text(place) for place in range(len(self)))

    def text(self, place: int) -> dict[str, Any]:
        """One document: the picture's path below the folder."""
        return {"path": relative(self.files[place], self.root)}

    def picture(self, place: int) -> Image.Image:
        """One picture in RGB, upright; `DataError` where it cannot be read or decoded."""
        try:
            content = self.files[place].read_bytes()
        except OSError as error:
            raise DataError(f"its picture cannot be read: {error.strerror}") from error
        return decode_row(content)

    def content(self, places: Sequence[int]) -> str:
        """Hash of the pictures' files."""
        return content_of(self.files[place] for place in places)


@dataclass(frozen=True)
class OneQuestion:
    """Asks the same question of every picture, in the place of a task of lmms-eval; judges none."""

    task: Task
    question: str

    @cached_property
    def new_tokens(self) -> int:
        return NEW_TOKENS

    def prompt(self, document: Mapping[str, Any]) -> str:
        """The question, of whatever picture."""
        return self.question

    def picture(self, document: Mapping[str, Any], picture: Image.Image) -> Image.Image:
        """The picture as it is."""
        return picture


def look_in(data: str) -> AnyPath:
    """The folder of an address; raises `DataError` where there is none."""
    root = path_of(data)
    if not root.is_dir():
        raise DataError(
            f"data={data} is no folder; bench.question= is asked of a folder's pictures."
        )
    return root


def open_pictures(
    data: str, question: str, *, limit: int | None, sample: Sample, new_tokens: int | None
) -> QuestionSet[OneQuestion]:
    """Pictures below a folder with one question.

    Args:
        limit: the first n in sorted order, or as many ``spread`` over all.

    Raises:
        DataError: no folder, or none with pictures. BadValueError: more than there are.
    """
    root = look_in(data)
    files: list[AnyPath] = sorted(file for file in root.rglob("*") if is_picture(file.name))
    if not files:
        raise DataError(f"data={data} holds no pictures ({', '.join(EXTENSIONS)}).")
    if limit is not None and limit > len(files):
        raise BadValueError(
            f"limit={limit}, but data={data} has {len(files)} pictures: use limit={len(files)}."
        )
    task = Task("picture", "", "", "", (), "", "")
    chosen = subset(range(len(files)), limit or len(files), sample)
    groups = [[place] for place in range(len(files))]
    asked = Asked(Pictures(task, files, root), OneQuestion(task, question), groups, chosen)
    return QuestionSet([asked], sample, new_tokens)
