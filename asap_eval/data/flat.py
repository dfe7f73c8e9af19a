"""Images that lie flat, in a folder or tar, with their classes in a file: ImageNet's own are so."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from asap_eval.data.classes import Classes, Numbered, labelled
from asap_eval.data.decoding import EXTENSIONS, is_picture
from asap_eval.data.labels import read_labels
from asap_eval.data.shards.members import Part, files_of
from asap_eval.data.stores import FileStore, Located, OwnStore, Store
from asap_eval.errors import DataError
from asap_eval.files.archive import AnyPath, path_of
from asap_eval.files.fingerprint import content_of

TAR = ".tar"


class FlatStore(FileStore):
    """Every image of one folder, in the order of their names; ids are these names."""

    def __init__(self, folder: AnyPath, data: str, labels: AnyPath, classes: Classes) -> None:
        look_flat(folder, data, str(labels))
        self.folder = folder
        ids = sorted(entry.name for entry in folder.iterdir() if _is_image(entry))
        found = _numbers(ids, labels, classes)
        super().__init__(ids, found.numbers, [found.note] if found.note else [])

    def path(self, place: int) -> AnyPath:
        return self.folder / self.ids[place]


def look_flat(folder: AnyPath, data: str, labels: str) -> None:
    """Raise `DataError` where a folder cannot be read or no image lies in it."""
    if folder.is_file():
        return  # a tar, which is listed as it is opened
    try:
        if any(map(_is_image, folder.iterdir())):
            return
        folders = sorted(
            entry.name
            for entry in folder.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError as error:
        raise DataError(f"data={data} cannot be read: {error}.") from error
    what = f"folders such as {folders[0]}" if folders else "no images"
    raise DataError(
        f"data={data} holds {what}, and labels={labels} is for images that lie flat in it. "
        "Leave labels out for class folders."
    )


def _is_image(entry: AnyPath) -> bool:
    return not entry.name.startswith(".") and is_picture(entry.name) and entry.is_file()


class TarStore(OwnStore):
    """Every image of an uncompressed tar, read in place; ids are the names in it, sorted."""

    commits: Mapping[str, str] = MappingProxyType({})

    def __init__(self, tar: Path, labels: AnyPath, classes: Classes) -> None:
        self.tar = tar
        self.parts: dict[str, Part] = {}
        for name, part in files_of(tar):
            if is_picture(name):
                if name in self.parts:
                    raise DataError(f"{tar} holds {name} more than once. Keep one of them.")
                self.parts[name] = part
        self.ids = sorted(self.parts)
        if not self.ids:
            raise DataError(f"{tar}: there is no image ({', '.join(EXTENSIONS)}) in it.")
        found = _numbers(self.ids, labels, classes)
        self.labels: Sequence[int | None] = found.numbers
        self.notes = [found.note] if found.note else []

    def read(self, place: int) -> bytes:
        with self.tar.open("rb") as file:
            return self.parts[self.ids[place]].read(file)

    def content(self, places: Sequence[int]) -> str:
        return content_of([self.tar])

    def located(self) -> Located:
        """Stretches of the tar."""
        parts = [self.parts[name] for name in self.ids]
        return Located(
            "bytes", [os.path.abspath(self.tar)], [(0, one.offset, one.size) for one in parts]
        )


def open_flat(folder: AnyPath, data: str, labels: str, classes: Classes) -> Store:
    """The store of a flat folder, also in an archive, or of a flat tar.

    Args:
        folder: where the images lie. labels: file that says their classes, see `read_labels`.

    Raises:
        DataError: no images are there, or the file does not say a class of the model for each.
    """
    said = path_of(labels)
    if isinstance(folder, Path) and folder.suffix == TAR and folder.is_file():
        return TarStore(folder, said, classes)
    return FlatStore(folder, data, said, classes)


def _numbers(ids: Sequence[str], labels: AnyPath, classes: Classes) -> Numbered:
    return labelled(read_labels(labels, ids), None, classes, f"labels={labels}")
