"""Where labelled images lie: class folders, also in archives, Hugging Face data sets, shards.

A store knows the id and the label of every image without decoding one, and reads the bytes of any
image by its place. timm's own data sets skip images they cannot decode (the next one takes their
place, or none); here every stored image counts, so only timm's readers of addresses are used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from asap_eval.data.classes import SHOWN, Classes, Numbered, labelled, numbered, of_numbers
from asap_eval.data.decoding import EXTENSIONS
from asap_eval.data.rows import Rows, open_files, open_split
from asap_eval.data.shard_list import Shard, list_shards
from asap_eval.data.shards import Part
from asap_eval.data.splits import of_split
from asap_eval.errors import DataError
from asap_eval.files.archive import AnyPath, path_of, relative, walk
from asap_eval.files.fingerprint import content_of

SPLIT = "validation"
"""Split of a data set where its address names none (``hfds/<name>@<split>``)."""

_VAL_FOLDERS = ("val", "validation")


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


def open_store(data: str, classes: Classes) -> Store:
    """The store an address means.

    Args:
        data: a folder, also in an archive (`path_of`), a parquet file,
            ``hfds/<data set>[:<config>][@<split>]`` or
            ``wds/<shards>[:<kind of the picture's files>][@<split>]``.

    Raises:
        DataError: nothing usable is there; says what to do.
    """
    kind, _, rest = data.partition("/")
    if kind == "hfds" and rest:
        _needed("datasets", f"data={data}")
        name, config, split, said = address_parts(rest)
        return _HubStore(open_split(name, split, config=config, said=said), f"data={data}", classes)
    if kind == "wds" and rest:
        _needed("webdataset", f"data={data}")
        name, picture, split, said = address_parts(rest)
        return _ShardStore(list_shards(name, split, said=said), classes, picture)
    root = path_of(data)
    if not root.exists():
        raise DataError(
            f"data={data} does not exist. Give a folder of class folders, an ImageNet folder with "
            "`val`, a .zip of either, a parquet file or folder, hfds/<Hugging Face data set> or "
            "wds/<shards>."
        )
    if isinstance(root, Path) and (
        root.suffix == ".parquet" or (root.is_dir() and any(root.glob("*.parquet")))
    ):
        _needed("datasets", f"data={data}")
        return _HubStore(open_files(_parquet(root, data)), f"data={data}", classes)
    if root.is_file():
        raise DataError(
            f"data={data} is a file. Give the folder that holds the class folders"
            + (f", or wds/{data} for a shard." if root.suffix == ".tar" else ".")
        )
    return _FolderStore(root, data, classes)


def address_parts(rest: str) -> tuple[str, str | None, str, bool]:
    """Name, part, split, and whether that is said, of an address behind its kind:
    ``<name>[:<part>][@<split>]``. The part is a config, or the kind of file that is the picture."""
    folder, slash, last = rest.rpartition("/")
    last, _, split = last.partition("@")
    if re.fullmatch(r"\w+:[\w.]+", split):
        split, _, part = split.partition(":")
        raise DataError(f"{rest}: the split comes last: {folder}{slash}{last}:{part}@{split}.")
    last, _, part = last.partition(":")
    return f"{folder}{slash}{last}", part or None, split or SPLIT, bool(split)


def _parquet(root: Path, data: str) -> list[Path]:
    """The file, or those of a folder that hold the split."""
    if root.is_file():
        return [root]
    names = sorted(file.name for file in root.glob("*.parquet"))
    instead = f"Give one file, or say the split: hfds/{data}@<split>"
    return [
        root / n for n in of_split(names, SPLIT, said=False, where=f"data={data}", instead=instead)
    ]


class _FolderStore:
    """Class folders, or a folder whose `val` holds them; ids are relative to the given folder,
    which may lie in an archive.

    Files that are not images are no samples, and counted; hidden files and folders are neither.
    """

    def __init__(self, root: AnyPath, data: str, classes: Classes) -> None:
        self.root = root
        try:
            inside = [root / name for name in _VAL_FOLDERS if (root / name).is_dir()]
            if len(inside) > 1:
                raise DataError(
                    f"data={data} has both {' and '.join(_VAL_FOLDERS)}. Give one: data={inside[0]}"
                )
            top = inside[0] if inside else root
            folders = _class_folders(top, data)
            numbers = _numbers(folders, classes, data)
            files = [
                (name, number)
                for folder, number in zip(folders, numbers.numbers, strict=True)
                for name in _files(folder, root)
            ]
            found = [(name, number) for name, number in files if _is_image(name)]
        except OSError as error:
            raise DataError(f"data={data} cannot be read: {error}.") from error
        if not found:
            raise DataError(
                f"data={data}: there is no image in its {len(folders)} class folders "
                f"(looked for {', '.join(EXTENSIONS)})."
            )
        found.sort()
        self.ids = [name for name, _ in found]
        self.labels = [label for _, label in found]
        others = [name for name, _ in files if not _is_image(name)]
        self.notes = [*filter(None, (numbers.note, _not_images(others, data)))]

    def read(self, place: int) -> bytes:
        return (self.root / self.ids[place]).read_bytes()

    def content(self, places: Sequence[int]) -> str:
        return content_of(self.root / self.ids[place] for place in places)


def _class_folders(top: AnyPath, data: str) -> list[AnyPath]:
    entries: list[AnyPath] = sorted(
        entry for entry in top.iterdir() if not entry.name.startswith(".")
    )
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if entry.is_file() and _is_image(entry.name)]
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


def _numbers(folders: Sequence[AnyPath], classes: Classes, data: str) -> Numbered:
    names = [folder.name for folder in folders]
    try:
        return numbered(names, classes, f"data={data}", what="class folders", order="sorted")
    except DataError as error:
        # Archives are often made of a folder with that folder inside.
        if len(folders) == 1 and any(entry.is_dir() for entry in folders[0].iterdir()):
            hint = f"Its only folder holds folders: data={folders[0]} takes those as classes."
            raise DataError(f"{error} {hint}") from error
        raise


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _not_images(names: Sequence[str], data: str) -> str | None:
    """The note on files that are no samples, by their endings."""
    kinds = Counter(Path(name).suffix.lower() or "without ending" for name in names)
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(SHOWN))
    more = f" and {len(kinds) - SHOWN} more kinds" if len(kinds) > SHOWN else ""
    if not names:
        return None
    return (
        f"data={data}: {len(names)} files are left out, no images by their ending ({shown}{more})."
    )


def _files(folder: AnyPath, root: AnyPath) -> Iterator[str]:
    """Paths from the root of all files below a folder, hidden ones left out."""
    for here, below, files in walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        at = relative(here, root)
        yield from (f"{at}/{name}" for name in files if not name.startswith("."))


class _HubStore:
    """A Hugging Face data set with an image and a label column; ids are the stored index."""

    def __init__(self, rows: Rows, where: str, classes: Classes) -> None:
        import datasets

        self.rows, self.commits = rows, rows.commits
        features = rows.data.features
        self.image = _column(features, ("image", "img", "jpg", "png", "webp"), "image", where)
        label = _column(features, ("label", "labels", "cls", "fine_label"), "label", where)
        self.dataset = rows.data.cast_column(self.image, datasets.Image(decode=False))
        names = getattr(features[label], "names", None)
        found = labelled(list(self.dataset[label]), names, classes, where)
        self.labels, self.notes = found.numbers, [found.note] if found.note else []
        self.ids = [str(at) for at in range(len(self.labels))]
        if not self.ids:
            raise DataError(f"{where} has no image.")

    def read(self, place: int) -> bytes:
        image = self.dataset[place][self.image]
        if image is None:
            raise DataError("the stored image is null")
        if image.get("bytes"):
            return bytes(image["bytes"])
        if not image.get("path"):
            raise DataError("the stored image is empty")
        return Path(image["path"]).read_bytes()

    def content(self, places: Sequence[int]) -> str:
        return self.rows.content(self.image)


def _column(features: Iterable[str], usual: Sequence[str], what: str, where: str) -> str:
    found = [name for name in usual if name in features]
    if len(found) > 1:
        raise DataError(
            f"{where} has the columns {' and '.join(found)}, and each may be its {what}. Keep the "
            "one to use (`remove_columns`)."
        )
    if found:
        return found[0]
    raise DataError(
        f"{where} has columns {', '.join(features)}; its {what} column should be called "
        f"{' or '.join(usual)}. Rename it (`rename_column`)."
    )


def _needed(module: str, data: str) -> None:
    import importlib

    try:
        importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{data} needs the package {module}: pip install {module}") from error


class _ShardStore:
    """WebDataset shards with a picture and a ``.cls`` file per sample; ids are the stored index.

    The shards are indexed once, so any image is read by its place: runs resume, workers share the
    work, and an image that cannot be decoded keeps its place.

    Args:
        picture: kind of file that is the picture; None = the only one that a sample has.
    """

    def __init__(self, shards: Sequence[Shard], classes: Classes, picture: str | None) -> None:
        self.shards, self.kind = shards, picture or "picture"
        self.pictures: list[tuple[int, Part] | None] = []
        self.labels: list[int] = []
        self.notes: list[str] = []
        kinds = [extension[1:] for extension in EXTENSIONS]
        for number, shard in enumerate(self.shards):
            samples = shard.samples(kinds, picture)
            with shard.path.open("rb") as file:
                for sample in samples:
                    where = f"{shard.path}: sample {sample.key}"
                    label = None if sample.label is None else sample.label.read(file)
                    stated = _stated(label, classes, where)
                    if isinstance(stated, int) and not self.notes:
                        self.notes.append(of_numbers(str(shard.path)))
                    self.labels.append(classes.check(stated, where))
                    self.pictures.append((number, sample.picture) if sample.picture else None)
        self.ids = [str(at) for at in range(len(self.labels))]
        if not self.ids:
            raise DataError(f"{self.shards[0].path} and the shards after it hold no sample.")
        if not any(self.pictures):
            what = f"a .{picture} file" if picture else "a picture"
            raise DataError(
                f"{self.shards[0].path}: no sample of it or the shards after it has {what}."
            )

    def read(self, place: int) -> bytes:
        picture = self.pictures[place]
        if picture is None:
            raise DataError("the sample has no image file")
        number, part = picture
        with self.shards[number].path.open("rb") as file:
            return part.read(file)

    def content(self, places: Sequence[int]) -> str:
        return f"{content_of(shard.path for shard in self.shards)} {self.kind}"

    @property
    def commits(self) -> Mapping[str, str]:
        return dict(pair for s in self.shards if s.copy for pair in s.copy.commits.items())


def _stated(label: bytes | None, classes: Classes, where: str) -> int | str:
    """What a ``.cls`` file says: a number, or the name of one of the model's classes."""
    text = (label or b"").decode(errors="replace").strip()
    if re.fullmatch(r"-?\d+", text):  # as WebDataset has it, whatever the classes are called
        return int(text)
    if classes.place(text) is not None:
        return text
    what = f"its .cls reads {text!r}" if label is not None else "it has no .cls file"
    raise DataError(
        f"{where}: {what}. Every sample needs the number of a class, or the name of one of the "
        "model's (model.classes=<file> says them)."
    )
