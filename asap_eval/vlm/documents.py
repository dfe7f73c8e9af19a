"""Documents of a task: rows with a question, answers and an encoded picture, here or on the hub.

``data=<folder>`` holds ``<task>.parquet``, or a folder ``<task>`` with parquet files: those of the
hub's repository as downloaded, too, of which config and split are found by their names.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from asap_eval.decoding import whole_images_only
from asap_eval.errors import DataError
from asap_eval.fingerprint import content_of
from asap_eval.vlm.tasks import Task

HUB = "hub"
"""``data=hub``, or no ``data``: Hugging Face's hub, through its local cache."""

IMAGE, IMAGE_ID = "image", "imageId"


@dataclass
class Documents:
    """All documents of a task in stored order.

    Attributes:
        task: theirs. rows: a data set. apart: pictures in a data set of their own, or None.
        source: where they are from. files: what holds them.
    """

    task: Task
    rows: Any
    apart: Any
    source: str
    files: list[Path]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def without_pictures(self) -> Any:
        """The rows less their pictures, which take long to read."""
        names = self.rows.column_names
        return self.rows.remove_columns([IMAGE]) if IMAGE in names else self.rows

    @cached_property
    def _place_of(self) -> dict[Any, int]:
        """Row of each picture that lies apart."""
        assert self.task.pictures is not None
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
        return decoded(stored)

    def content(self, places: Sequence[int]) -> str:
        """Hash of the files, which hold other documents than those asked for, too, and of the
        pictures that they only point to.
        """
        pictures = self.rows if self.apart is None else self.apart
        return content_of([*self.files, *_pointed_to(pictures)])


def _pointed_to(rows: Any) -> list[Path]:
    """Files of the pictures whose bytes the rows do not hold."""
    import datasets

    kind = rows.features[IMAGE]
    if not isinstance(kind, (datasets.Image, datasets.List)):
        return []
    found: list[str | None] = []
    for chunk in rows.data.column(IMAGE).chunks:
        stored = chunk.flatten() if isinstance(kind, datasets.List) else chunk
        content, path = stored.field("bytes"), stored.field("path")
        if content.null_count:
            found += path.filter(content.is_null()).to_pylist()
    return [Path(name) for name in found if name]


def decoded(stored: Any) -> Image.Image:
    """A stored picture in RGB.

    Args:
        stored: its file's bytes, Hugging Face's ``{bytes, path}``, or a list of one such.

    Raises:
        DataError: there is none or more than one, or it cannot be decoded whole.
    """
    if isinstance(stored, list):
        if len(stored) > 1:
            raise DataError(f"it has {len(stored)} pictures; one is allowed")
        stored = stored[0] if stored else None
    if isinstance(stored, dict):
        content, path = stored.get("bytes"), stored.get("path")
        if content is None and path and Path(path).is_file():
            content = Path(path).read_bytes()
        stored = content
    if not stored:
        raise DataError("it has no picture")
    try:
        with whole_images_only(), Image.open(io.BytesIO(stored)) as image:
            return image.convert("RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # its text holds a memory address
        raise DataError("its picture is not an image") from error
    except Exception as error:  # decoders of damaged files raise many kinds
        first = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(f"its picture cannot be decoded: {first}") from error


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
    return found


def _from_folder(task: Task, root: Path, data: str) -> Documents:
    if not root.is_dir():
        raise DataError(
            f"data={data} is no folder. bench=vlm needs one with <task>.parquet or "
            "<task>/*.parquet for every task, or data=hub for Hugging Face's."
        )
    if (one := root / f"{task.name}.parquet").is_file():
        return Documents(task, _parquet([one]), None, str(one), [one])
    folder = root / task.name
    files = sorted(folder.rglob("*.parquet"))
    own = _of_config(_of_split(files, folder, task.split), folder, task.config)
    if not own:
        raise DataError(
            f"data={data} has no questions of task {task.name}: neither {one.name} nor parquet "
            f"files in a folder {task.name}/. Leave the task out (tasks=), or add the file."
        )
    rows, apart, pictures = _parquet(own), None, []
    if task.pictures is not None and IMAGE not in rows.column_names:
        config, key = task.pictures
        pictures = _of_config(_of_split(files, folder, task.split), folder, config)
        if pictures == own or not pictures:
            raise DataError(
                f"{folder} has no pictures: add a column {IMAGE}, or a folder {config} with "
                f"columns {key} and {IMAGE}."
            )
        apart = _parquet(pictures)
    return Documents(task, rows, apart, str(folder), [*own, *pictures])


def _of_split(files: list[Path], folder: Path, split: str) -> list[Path]:
    """Files named ``<split>-00000-of-…``, as the hub has them; all where none is."""
    return [file for file in files if file.name.startswith(f"{split}-")] or files


def _of_config(files: list[Path], folder: Path, config: str | None) -> list[Path]:
    """Files in a folder named as the config; all where there is none."""
    return [file for file in files if config in file.relative_to(folder).parts[:-1]] or files


def _from_hub(task: Task) -> Documents:
    rows = _loaded(task.hub, f"data={HUB}: {task.hub}", name=task.config, split=task.split)
    apart = None
    if task.pictures is not None:
        name = task.pictures[0]
        apart = _loaded(task.hub, f"data={HUB}: {task.hub}", name=name, split=task.split)
    held = [
        file["filename"] for one in (rows, apart) if one is not None for file in one.cache_files
    ]
    return Documents(task, rows, apart, task.hub, [Path(name) for name in held])


def _parquet(files: list[Path]) -> Any:
    import datasets

    names = [str(file.resolve()) for file in files]
    # The library keeps what it read by path and time, which a file written again may share.
    content = content_of(files)
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()  # nothing is fetched
    try:
        return _loaded("parquet", str(files[0]), name=content, data_files=names, split="train")
    finally:
        if shown:
            datasets.enable_progress_bars()


def _loaded(path: str, where: str, **how: Any) -> Any:
    """A data set with its pictures left encoded."""
    import datasets

    try:
        rows = datasets.load_dataset(path, **how)
    except MemoryError:
        raise
    except Exception as error:  # network, hub, schema and arrow errors share no base class
        first = str(error).strip().split("\n")[0]
        raise DataError(
            f"{where} cannot be read ({type(error).__name__}: {first}). Check the file; for the "
            "hub the connection, or fetch the data set elsewhere and give its folder as data=."
        ) from error
    if isinstance(rows.features.get(IMAGE), datasets.Image):
        rows = rows.cast_column(IMAGE, datasets.Image(decode=False))
    elif isinstance(rows.features.get(IMAGE), datasets.List):
        rows = rows.cast_column(IMAGE, datasets.List(datasets.Image(decode=False)))
    return rows
