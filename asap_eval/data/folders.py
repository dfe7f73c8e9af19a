"""Folders of images as a store: a folder a class, or any images below one; also in archives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from asap_eval.data.classes import SHOWN, Classes, Numbered, numbered
from asap_eval.data.decoding import EXTENSIONS, is_picture
from asap_eval.data.labels import hint
from asap_eval.data.named import near
from asap_eval.data.stores import FileStore
from asap_eval.errors import DataError, some_of
from asap_eval.files.archive import AnyPath, path_of, relative, walk

_VAL_FOLDERS = ("val", "validation")


class FolderStore(FileStore):
    """Class folders, or a folder whose `val` holds them; ids are relative to the given folder,
    which may lie in an archive.

    Files that are not images are no samples, and counted; hidden files and folders are neither.
    """

    def __init__(self, root: AnyPath, data: str, classes: Classes) -> None:
        self.root = root
        try:
            folders = _class_folders(top_of(root, data), data)
            _check_any(folders, data)
            numbers = _numbers(folders, classes, data)
            files = [
                (name, number)
                for folder, number in zip(folders, numbers.numbers, strict=True)
                for name in _files(folder, root)
            ]
            found = [(name, number) for name, number in files if is_picture(name)]
        except OSError as error:
            raise DataError(f"data={data} cannot be read: {error}.") from error
        found.sort()
        others = [name for name, _ in files if not is_picture(name)]
        super().__init__(
            [name for name, _ in found],
            [label for _, label in found],
            [*filter(None, (numbers.note, _not_images(others, data)))],
        )

    def path(self, place: int) -> AnyPath:
        return self.root / self.ids[place]


def look_into(root: AnyPath, data: str) -> None:
    """Raise `DataError` where a folder has no class folders, or none of them an image; it is not
    listed whole."""
    try:
        _check_any(_class_folders(top_of(root, data), data), data)
    except OSError as error:
        raise DataError(f"data={data} cannot be read: {error}.") from error


class LooseStore(FileStore):
    """Every image below a folder, also of an archive, in sorted order, without labels; ids are
    relative to it.

    Raises:
        DataError: there is no such folder, or no image in it.
    """

    def __init__(self, data: str) -> None:
        self.root = look_below(data)
        ids = sorted(relative(file, self.root) for file in _pictures(self.root))
        super().__init__(ids, [None] * len(ids))

    def path(self, place: int) -> AnyPath:
        return self.root / self.ids[place]


def look_below(data: str) -> AnyPath:
    """The folder of an address, which holds an image at some depth; it is not listed whole.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    root = path_of(data)
    if not root.is_dir():
        raise DataError(
            f"data={data} is no folder.{near(data)} Give one that holds images, at any depth."
        )
    if not any(True for _ in _pictures(root)):
        raise DataError(f"data={data}: there is no image ({', '.join(EXTENSIONS)}) in it.")
    return root


def _pictures(root: AnyPath) -> Iterator[AnyPath]:
    return (file for file in root.rglob("*") if is_picture(file.name) and file.is_file())


def top_of(root: AnyPath, data: str) -> AnyPath:
    """The validation folder inside a folder, or that itself where there is none.

    Raises:
        DataError: there are two.
    """
    inside = [root / name for name in _VAL_FOLDERS if (root / name).is_dir()]
    if len(inside) > 1:
        raise DataError(
            f"data={data} has both {' and '.join(_VAL_FOLDERS)}. Give one: data={inside[0]}"
        )
    return inside[0] if inside else root


def _class_folders(top: AnyPath, data: str) -> list[AnyPath]:
    entries: list[AnyPath] = sorted(
        entry for entry in top.iterdir() if not entry.name.startswith(".")
    )
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if entry.is_file() and is_picture(entry.name)]
    if loose:
        raise DataError(
            f"data={data}: {loose[0].name} and {len(loose) - 1} more images lie in {top.name}/ "
            "itself, so their class is unknown. Sort them into one folder per class (ImageNet: "
            f"folders named by WordNet id), or give {hint(top)}"
        )
    if not folders:
        shards = next((entry.name for entry in entries if entry.suffix == ".tar"), None)
        what = f"holds shards: use data=wds/{data}" if shards else "is empty"
        if entries and not shards:
            what = f"holds no folders, only files such as {entries[0].name}"
        raise DataError(f"data={data} {what}. Class folders with images are needed.")
    return folders


def _check_any(folders: Sequence[AnyPath], data: str) -> None:
    """Raise `DataError` where no image is below any of the folders."""
    if not any(is_picture(name) for folder in folders for name in _files(folder, folder)):
        raise DataError(
            f"data={data}: there is no image in its {len(folders)} class folders "
            f"(looked for {', '.join(EXTENSIONS)})."
        )


def _numbers(folders: Sequence[AnyPath], classes: Classes, data: str) -> Numbered:
    names = [folder.name for folder in folders]
    try:
        return numbered(names, classes, f"data={data}", what="class folders", order="sorted")
    except DataError as error:
        # Archives are often made of a folder with that folder inside; splits lie beside each other.
        if any(entry.is_dir() for entry in folders[0].iterdir()):
            what = "Its only folder holds" if len(folders) == 1 else "Its folders hold"
            hint = f"{what} folders: data={folders[0]} takes those as classes."
            raise DataError(f"{error} {hint}") from error
        raise


def _not_images(names: Sequence[str], data: str) -> str | None:
    """The note on files that are no samples, by their endings."""
    kinds = Counter(Path(name).suffix.lower() or "without ending" for name in names)
    if not names:
        return None
    counted = [f"{count} {kind}" for kind, count in kinds.most_common()]
    shown = some_of(counted, SHOWN, " and {} more kinds")
    return f"data={data}: {len(names)} files are left out, no images by their ending ({shown})."


def _files(folder: AnyPath, root: AnyPath) -> Iterator[str]:
    """Paths from the root of all files below a folder, hidden ones left out."""
    for here, below, files in walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        at = relative(here, root)
        yield from (f"{at}/{name}" for name in files if not name.startswith("."))
