"""Images of this disk as a store: folders by class, or any images below a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from asap_eval.data.classes import SHOWN, Classes, numbered
from asap_eval.data.decoding import EXTENSIONS, is_picture
from asap_eval.data.stores import FileStore
from asap_eval.errors import DataError, some_of

_VAL_FOLDERS = ("val", "validation")


class FolderStore(FileStore):
    """Class folders, or a folder whose `val` holds them; ids are relative to the given folder.

    Files that are not images are no samples, and counted; hidden files and folders are neither.
    """

    def __init__(self, root: Path, data: str, classes: Classes) -> None:
        self.root = root
        try:
            inside = [root / name for name in _VAL_FOLDERS if (root / name).is_dir()]
            if len(inside) > 1:
                raise DataError(
                    f"data={data} has both {' and '.join(_VAL_FOLDERS)}. Give one: data={inside[0]}"
                )
            top = inside[0] if inside else root
            folders = _class_folders(top, data)
            numbers = numbered(
                [folder.name for folder in folders],
                classes,
                f"data={data}",
                what="class folders",
                order="sorted",
            )
            files = [
                (file.relative_to(root).as_posix(), number)
                for folder, number in zip(folders, numbers.numbers, strict=True)
                for file in _files(folder)
            ]
            found = [(name, number) for name, number in files if is_picture(name)]
        except OSError as error:
            raise DataError(f"data={data} cannot be read: {error}.") from error
        if not found:
            raise DataError(
                f"data={data}: there is no image in its {len(folders)} class folders "
                f"(looked for {', '.join(EXTENSIONS)})."
            )
        found.sort()
        others = [name for name, _ in files if not is_picture(name)]
        super().__init__(
            [name for name, _ in found],
            [label for _, label in found],
            [*filter(None, (numbers.note, _not_images(others, data)))],
        )

    def path(self, place: int) -> Path:
        return self.root / self.ids[place]


class LooseStore(FileStore):
    """Every image below a folder in sorted order, without labels; ids are relative to it.

    Raises:
        DataError: there is no such folder, or no image in it.
    """

    def __init__(self, data: str) -> None:
        self.root = Path(data).expanduser()
        if not self.root.is_dir():
            raise DataError(f"data={data} is no folder: give one that holds images, at any depth.")
        files = (f for f in self.root.rglob("*") if is_picture(f.name) and f.is_file())
        ids = sorted(file.relative_to(self.root).as_posix() for file in files)
        if not ids:
            raise DataError(f"data={data}: there is no image ({', '.join(EXTENSIONS)}) in it.")
        super().__init__(ids, [None] * len(ids))

    def path(self, place: int) -> Path:
        return self.root / self.ids[place]


def _class_folders(top: Path, data: str) -> list[Path]:
    entries = sorted(entry for entry in top.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if entry.is_file() and is_picture(entry.name)]
    if loose:
        raise DataError(
            f"data={data}: {loose[0].name} and {len(loose) - 1} more images lie in {top.name}/ "
            "itself, so their class is unknown. Sort them into one folder per class (ImageNet: "
            "folders named by WordNet id)."
        )
    if not folders:
        shards = next((entry.name for entry in entries if entry.suffix == ".tar"), None)
        what = f"holds shards: use data=wds/{data}" if shards else "is empty"
        if entries and not shards:
            what = f"holds no folders, only files such as {entries[0].name}"
        raise DataError(f"data={data} {what}. Class folders with images are needed.")
    return folders


def _not_images(names: Sequence[str], data: str) -> str | None:
    """The note on files that are no samples, by their endings."""
    kinds = Counter(Path(name).suffix.lower() or "without ending" for name in names)
    if not names:
        return None
    counted = [f"{count} {kind}" for kind, count in kinds.most_common()]
    shown = some_of(counted, SHOWN, " and {} more kinds")
    return f"data={data}: {len(names)} files are left out, no images by their ending ({shown})."


def _files(folder: Path) -> Iterator[Path]:
    for here, below, files in os.walk(folder, followlinks=True, onerror=_raise):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield Path(here, name)


def _raise(error: OSError) -> None:
    raise error
