"""Documents of a task: rows with a question, answers and an encoded picture, here or on the hub.

``data=<folder>`` holds ``<task>.parquet`` for every task, or a folder ``<task>`` of parquet files.
That folder may be the hub's repository as downloaded: the names of its folders and files then say
which config and split they are of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from asap_eval.data.decoding import decode_row
from asap_eval.data.questions.tasks import Task
from asap_eval.data.rows import Rows, open_files, open_split
from asap_eval.data.rows.table import Table
from asap_eval.data.splits import of_split
from asap_eval.errors import DataError

HUB = "hub"
"""``data=hub``, or no ``data``: Hugging Face's hub, through its local cache."""

IMAGE, IMAGE_ID = "image", "imageId"

_ANY_CONFIG = "data"
"""Folder of the hub's repositories that names no config."""


@dataclass
class Documents:
    """All documents of a task in stored order.

    Attributes:
        task: whose they are. rows: the questions, each with its picture or the picture's id.
        apart: pictures by their ids, None where the rows hold them. source: for messages.
        held: what `rows` and `apart` were made from.
    """

    task: Task
    rows: Table
    apart: Table | None
    source: str
    held: Sequence[Rows]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def without_pictures(self) -> Table:
        """The rows less their pictures, which take long to read."""
        names = self.rows.column_names
        return self.rows.remove_columns([IMAGE]) if IMAGE in names else self.rows

    @cached_property
    def _place_of(self) -> dict[Any, int]:
        """Row of each picture that lies apart."""
        assert self.task.pictures is not None
        assert self.apart is not None
        return {key: place for place, key in enumerate(self.apart[self.task.pictures[1]])}

    def texts(self) -> Iterator[dict[str, Any]]:
        """Every document without its picture."""
        yield from self.without_pictures

    def text(self, place: int) -> dict[str, Any]:
        """One document without its picture."""
        return dict(self.without_pictures[place])

    def picture(self, place: int) -> Image.Image:
        """The picture of a document, decoded to RGB.

        Raises:
            DataError: there is none or more than one, or it cannot be decoded.
        """
        if self.apart is None:
            stored = self.rows[place][IMAGE]
        else:
            key = self.rows[place][IMAGE_ID]
            if key not in self._place_of:
                raise DataError(f"there is no picture with id {key}")
            stored = self.apart[self._place_of[key]][IMAGE]
        return decode_row(stored)

    def content(self, places: Sequence[int]) -> str:
        """Changes with the bytes of any document: files hold others beside those asked for."""
        return "\n".join(
            one.content(IMAGE if IMAGE in one.data.column_names else None) for one in self.held
        )

    @property
    def commits(self) -> Mapping[str, str]:
        """Commits of the hub's repositories that they are from, by their names."""
        return dict(pair for one in self.held for pair in one.commits.items())


def open_documents(task: Task, data: str) -> Documents:
    """The documents of a task.

    Args:
        data: a folder, or ``hub``.

    Raises:
        DataError: they are not there, cannot be read, or lack a column.
    """
    found = _from_hub(task) if data == HUB else _from_folder(task, Path(data).expanduser(), data)
    needed = [*task.columns] + ([] if found.apart is not None else [IMAGE])
    if missing := [name for name in needed if name not in found.rows.column_names]:
        raise DataError(
            f"{found.source} lacks {', '.join(missing)} for task {task.name}; its columns are "
            f"{', '.join(found.rows.column_names)}."
        )
    if not len(found):
        raise DataError(f"{found.source} holds no question for task {task.name}.")
    if found.apart is not None:
        _check_apart(found)
    return found


def _check_apart(found: Documents) -> None:
    """Raise `DataError` where pictures that lie apart cannot be told by their ids."""
    assert found.task.pictures is not None
    assert found.apart is not None
    key, names = found.task.pictures[1], found.apart.column_names
    if missing := [name for name in (key, IMAGE) if name not in names]:
        raise DataError(
            f"{found.source}: its pictures lack {', '.join(missing)}; their columns are "
            f"{', '.join(names)}."
        )
    if doubled := [one for one, count in Counter(found.apart[key]).items() if count > 1]:
        raise DataError(
            f"{found.source}: {len(doubled)} pictures come more than once, the first has {key} "
            f"{doubled[0]}. Keep one of each."
        )


def look(task: Task, data: str) -> None:
    """Raise `DataError` where a folder has no file of a task; nothing is opened or fetched."""
    if data != HUB:
        _files_of(task, Path(data).expanduser(), data)


def _files_of(task: Task, root: Path, data: str) -> list[Path]:
    """A task's parquet files in a folder, at least one."""
    if not root.is_dir():
        raise DataError(
            f"data={data} is no folder. bench=vlm needs one with <task>.parquet or "
            "<task>/*.parquet for every task, or data=hub for Hugging Face's."
        )
    one = root / f"{task.name}.parquet"
    files = [one] if one.is_file() else sorted((root / task.name).rglob("*.parquet"))
    if not files:
        raise DataError(
            f"data={data} has no questions of task {task.name}: neither {one.name} nor parquet "
            f"files in a folder {task.name}/. Leave the task out (tasks=), or add the file."
        )
    return files


def _from_folder(task: Task, root: Path, data: str) -> Documents:
    files, folder = _files_of(task, root, data), root / task.name
    if files[0].parent == root:
        return _documents(task, str(files[0]), open_files(files))
    own = _of_config(files, folder, task.config)
    if not own:
        raise DataError(
            f"{folder} has no files of the config {task.config}: they lie in a folder of that "
            f"name, as the hub has them, or in {task.name}/ itself."
        )
    rows = open_files(_of_split(own, folder, task.split))
    if task.pictures is None or IMAGE in rows.data.column_names:
        return _documents(task, str(folder), rows)
    config, key = task.pictures
    pictures = _of_config(files, folder, config)
    if pictures == own or not pictures:
        raise DataError(
            f"{folder} has no pictures: add a column {IMAGE}, or a folder {config} with columns "
            f"{key} and {IMAGE}."
        )
    return _documents(task, str(folder), rows, open_files(_of_split(pictures, folder, task.split)))


def _of_config(files: list[Path], folder: Path, config: str | None) -> list[Path]:
    """Files of a config: those in a folder of its name; where no folder names one, all."""
    places = [file.relative_to(folder).parts[:-1] for file in files]
    if found := [file for file, place in zip(files, places, strict=True) if config in place]:
        return found
    named = config is not None and any(set(place) - {_ANY_CONFIG} for place in places)
    return [] if named else files


def _of_split(files: list[Path], folder: Path, split: str) -> list[Path]:
    """Files of a split by their names, as the hub has them: ``<split>-00000-of-…``."""
    names = of_split(
        [file.name for file in files],
        split,
        said=False,
        where=str(folder),
        instead=f"Add files named {split}-….parquet, or take other splits away.",
    )
    return [file for file in files if file.name in names]


def _from_hub(task: Task) -> Documents:
    where = f"data={HUB}: {task.hub}"

    def opened(config: str | None) -> Rows:
        try:
            return open_split(task.hub, task.split, config=config, where=where)
        except DataError as error:
            raise DataError(
                f"{error} Or fetch the data set elsewhere and give its folder: data=<folder>."
            ) from error

    apart = None if task.pictures is None else opened(task.pictures[0])
    return _documents(task, task.hub, opened(task.config), apart)


def _documents(task: Task, source: str, rows: Rows, apart: Rows | None = None) -> Documents:
    held = [rows] if apart is None else [rows, apart]
    data = [_encoded(one.data) for one in held]
    return Documents(task, data[0], data[1] if len(data) > 1 else None, source, held)


def _encoded(data: Table) -> Table:
    """A data set whose pictures are left encoded."""
    import datasets

    kind = data.features.get(IMAGE)
    if isinstance(kind, datasets.Image):
        return data.cast_column(IMAGE, datasets.Image(decode=False))
    if isinstance(kind, datasets.List):
        return data.cast_column(IMAGE, datasets.List(datasets.Image(decode=False)))
    return data
