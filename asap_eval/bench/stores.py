"""Where labelled images lie: class folders, Hugging Face data sets, WebDataset shards.

A store knows the id and the label of every image without decoding one, and reads the bytes of any
image by its place. timm's own data sets skip images they cannot decode (the next one takes their
place, or none); here every stored image counts, so only timm's readers of addresses are used.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from asap_eval.errors import DataError
from asap_eval.fingerprint import content_of
from asap_eval.models.zoo import IMAGENET_CLASSES, Labels

EXTENSIONS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")

SPLIT = "validation"
"""Split of a data set where its address names none (``hfds/<name>@<split>``)."""

_VAL_FOLDERS = ("val", "validation")
_WNID = re.compile(r"n\d{8}")
_SHOWN = 5


@dataclass(frozen=True)
class Classes:
    """What the model's class numbers mean, and how many there are."""

    count: int
    labels: Labels

    def check(self, label: Any, where: str) -> int:
        """A stored label as a class number."""
        if isinstance(label, str) and self.labels == "wnid":
            return wnid_place(label, where)
        if not isinstance(label, int) or not 0 <= label < self.count:
            raise DataError(
                f"{where} has label {label!r}; the model's classes are 0 to {self.count - 1}. "
                "Use a split with labels, and the model these labels belong to."
            )
        return label


class Store(Protocol):
    """Every image of one place, in its stored order (folders: sorted by path).

    Attributes:
        ids: path relative to the folder, or the stored index.
        labels: class numbers; None = the image has none.
    """

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Sequence[int | None]: ...

    def read(self, place: int) -> bytes:
        """The encoded image; raises `OSError` or `DataError` where it cannot be read."""
        ...

    def content(self, places: Sequence[int]) -> str:
        """Hash that changes with the bytes of these images, wherever they lie (`fingerprint`)."""
        ...


def open_store(data: str, classes: Classes) -> Store:
    """The store an address means.

    Args:
        data: a folder, a parquet file, ``hfds/<data set>[@<split>]`` or ``wds/<shards>[@<split>]``.

    Raises:
        DataError: nothing usable is there; says what to do.
    """
    kind, _, rest = data.partition("/")
    if kind == "hfds" and rest:
        return _HubStore(*_dataset(*_address(rest)), classes)
    if kind == "wds" and rest:
        return _ShardStore(_shards(*_address(rest)), classes)
    root = Path(data).expanduser()
    if not root.exists():
        raise DataError(
            f"data={data} does not exist. Give a folder of class folders, an ImageNet folder with "
            "`val`, a parquet file or folder, hfds/<Hugging Face data set> or wds/<shards>."
        )
    if root.suffix == ".parquet" or (root.is_dir() and any(root.glob("*.parquet"))):
        files = [root] if root.is_file() else sorted(root.glob("*.parquet"))
        return _HubStore(_parquet(files), f"data={data}", classes)
    if root.is_file():
        raise DataError(
            f"data={data} is a file. Give the folder that holds the class folders"
            + (f", or wds/{data} for a shard." if root.suffix == ".tar" else ".")
        )
    return _FolderStore(root, data, classes)


def _address(rest: str) -> tuple[str, str]:
    name, _, split = rest.rpartition("@") if "@" in rest.rsplit("/", 1)[-1] else (rest, "", "")
    return name, split or SPLIT


@lru_cache(maxsize=1)
def _wnids() -> dict[str, int]:
    from timm.data import ImageNetInfo

    places = {name: place for place, name in enumerate(ImageNetInfo().label_names())}
    assert len(places) == IMAGENET_CLASSES
    return places


def wnid_place(wnid: str, where: str) -> int:
    """The class number of a WordNet id: its place among the 1000, never among those present."""
    if wnid not in _wnids():
        raise DataError(
            f"{where}: class '{wnid}' is not one of the {IMAGENET_CLASSES} ImageNet ids "
            "(n01440764 to n15075141). Remove it, or choose a model whose classes are these "
            "folders (model.labels=folders)."
        )
    return _wnids()[wnid]


class _FolderStore:
    """Class folders, or a folder whose `val` holds them; ids are relative to the given folder.

    Files that are not images, and hidden files and folders, are no samples.
    """

    def __init__(self, root: Path, data: str, classes: Classes) -> None:
        self.root = root
        try:
            top = next((root / name for name in _VAL_FOLDERS if (root / name).is_dir()), root)
            folders = _class_folders(top, data)
            places = _folder_places([folder.name for folder in folders], data, classes)
            found = [
                (file.relative_to(root).as_posix(), places[folder.name])
                for folder in folders
                for file in _images(folder)
            ]
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

    def read(self, place: int) -> bytes:
        return (self.root / self.ids[place]).read_bytes()

    def content(self, places: Sequence[int]) -> str:
        return content_of(self.root / self.ids[place] for place in places)


def _class_folders(top: Path, data: str) -> list[Path]:
    entries = sorted(entry for entry in top.iterdir() if not entry.name.startswith("."))
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


def _folder_places(names: Sequence[str], data: str, classes: Classes) -> dict[str, int]:
    """Class number of each folder."""
    if classes.labels == "wnid":
        return {name: wnid_place(name, f"data={data}") for name in names}
    if len(names) != classes.count:
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise DataError(
            f"data={data} has {len(names)} class folders ({shown}) and the model {classes.count} "
            "classes; folders map to classes in sorted order, so both must be equal. Choose the "
            "model trained for this data, or the right folder."
        )
    return {name: place for place, name in enumerate(names)}


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _images(folder: Path) -> Iterator[Path]:
    for here, below, files in os.walk(folder, followlinks=True, onerror=_raise):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in files:
            if _is_image(name) and not name.startswith("."):
                yield Path(here, name)


def _raise(error: OSError) -> None:
    raise error


class _HubStore:
    """A Hugging Face data set with an image and a label column; ids are the stored index."""

    def __init__(self, dataset: Any, where: str, classes: Classes) -> None:
        import datasets

        self.dataset = dataset
        features = dataset.features
        self.image = _column(features, ("image", "img", "jpg", "png", "webp"), "image", where)
        label = _column(features, ("label", "labels", "cls", "fine_label"), "label", where)
        self.dataset = dataset.cast_column(self.image, datasets.Image(decode=False))
        names = getattr(features[label], "names", None)
        if names is not None and not all(_WNID.fullmatch(name) for name in names):
            if len(names) != classes.count:
                raise DataError(
                    f"{where} has {len(names)} classes ({', '.join(names[:_SHOWN])} ...) and the "
                    f"model {classes.count}. Choose the model these labels belong to."
                )
            names = None
        values: Iterable[Any] = self.dataset[label]
        if names is not None and classes.labels == "wnid":
            values = [names[at] if isinstance(at, int) and at >= 0 else at for at in values]
        self.labels = [
            classes.check(value, f"{where}: image {at}") for at, value in enumerate(values)
        ]
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
        return content_of(Path(file["filename"]) for file in self.dataset.cache_files)


def _column(features: Iterable[str], usual: Sequence[str], what: str, where: str) -> str:
    for name in usual:
        if name in features:
            return name
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


def _dataset(name: str, split: str) -> tuple[Any, str]:
    """A data set saved on this disk, or one of the hub by timm's reader."""
    where = f"data=hfds/{name}@{split}"
    _needed("datasets", where)
    import datasets

    saved = Path(name).expanduser()
    try:
        if (saved / "state.json").is_file():
            return datasets.load_from_disk(str(saved)), where
        if (saved / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(saved))[split], where
        from timm.data.readers.reader_hfds import ReaderHfds

        # The class, not create_dataset: older timm lower-cases the name there.
        return ReaderHfds(name=name, split=split).dataset, where
    except MemoryError:
        raise
    except Exception as error:  # network, hub, schema and split errors share no base class
        first = str(error).strip().split("\n")[0]
        raise DataError(
            f"{where} cannot be opened ({type(error).__name__}: {first}). Check the name, the "
            "split after @, the connection, and for gated sets `hf auth login`."
        ) from error


def _parquet(files: Sequence[Path]) -> Any:
    _needed("datasets", f"data={files[0]}")
    import datasets

    try:
        return datasets.load_dataset(
            "parquet", data_files=[str(file.resolve()) for file in files], split="train"
        )
    except MemoryError:
        raise
    except Exception as error:  # arrow and datasets errors share no base class
        first = str(error).strip().split("\n")[0]
        raise DataError(
            f"data={files[0]} cannot be read as parquet ({type(error).__name__}: {first})."
        ) from error


@dataclass(frozen=True)
class _Member:
    """Bytes of one image inside a shard."""

    shard: int
    offset: int
    size: int


class _ShardStore:
    """WebDataset shards with an image and a ``.cls`` file per sample; ids are the stored index.

    The shards are indexed once, so any image is read by its place: runs resume, workers share the
    work, and an image that cannot be decoded keeps its place.
    """

    def __init__(self, shards: Sequence[Path], classes: Classes) -> None:
        self.shards = list(shards)
        self.members: list[_Member | None] = []
        self.labels: list[int] = []
        for number, shard in enumerate(self.shards):
            for key, image, label in _index(shard):
                where = f"{shard}: sample {key}"
                self.members.append(_Member(number, *image) if image else None)
                self.labels.append(classes.check(_number(label, where), where))
        self.ids = [str(at) for at in range(len(self.labels))]
        if not self.ids:
            raise DataError(f"{self.shards[0]} and the shards after it hold no sample.")

    def read(self, place: int) -> bytes:
        member = self.members[place]
        if member is None:
            raise DataError("the sample has no image file")
        with self.shards[member.shard].open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def content(self, places: Sequence[int]) -> str:
        return content_of(self.shards)


def _number(label: bytes | None, where: str) -> int:
    text = (label or b"").decode(errors="replace").strip()
    if not re.fullmatch(r"-?\d+", text):
        what = f"its .cls reads {text!r}" if label is not None else "it has no .cls file"
        raise DataError(f"{where}: {what}. A class number is needed for every sample.")
    return int(text)


def _index(shard: Path) -> Iterator[tuple[str, tuple[int, int] | None, bytes | None]]:
    """Key, place of the image's bytes and label of every sample, in stored order."""
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, kind = base.partition(".")
                if not member.isfile() or not stem:
                    continue
                sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
                if _is_image(f".{kind}"):
                    sample["image"] = (member.offset_data, member.size)
                elif kind.lower() == "cls":
                    file = tar.extractfile(member)
                    sample["cls"] = file.read() if file else None
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"Shard {shard} cannot be read: {error}. Shards have to be whole, uncompressed .tar "
            "files."
        ) from error
    for key, sample in samples.items():
        yield key, sample.get("image"), sample.get("cls")


def _shards(name: str, split: str) -> list[Path]:
    """The shards an address means: ``{000..063}`` patterns, a folder of shards, or one with
    timm's ``_info.json``; http addresses are fetched into torch's hub folder."""
    where = f"data=wds/{name}"
    _needed("webdataset", where)
    from webdataset.shardlists import expand_urls

    remote = re.match(r"[a-z]+://", name) is not None
    root = Path(name).expanduser()
    if name.endswith(".tar"):
        found = [str(url) for url in expand_urls(name if remote else str(root))]
    elif remote or any((root / info).is_file() for info in ("_info.json", "info.json")):
        found = [f"{name.rstrip('/')}/{file}" for file in _split_files(name, split)]
    elif root.is_dir():
        found = [str(file) for file in sorted(root.glob("*.tar"))]
    else:
        raise DataError(f"{where} does not exist. Give a folder of .tar shards or a pattern.")
    paths = [_fetched(url) for url in found] if remote else [Path(file) for file in found]
    absent = [path for path in paths if not path.is_file()]
    if absent or not paths:
        what = f"shard {absent[0]} does not exist" if absent else "there is no .tar file"
        raise DataError(f"{where}: {what}. Give a folder of .tar shards or a pattern.")
    return paths


def _split_files(root: str, split: str) -> Sequence[str]:
    from timm.data.readers.reader_wds import ReaderWds

    try:
        return ReaderWds(root=root, split=split).split_info.filenames
    except (RuntimeError, KeyError) as error:
        raise DataError(
            f"data=wds/{root}@{split}: {error}. Name a split of its _info.json after @."
        ) from error


def _fetched(url: str) -> Path:
    """A shard's local copy, fetched once."""
    import torch

    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rsplit('/', 1)[-1]}"
    path = Path(torch.hub.get_dir()) / "asap_eval_shards" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path))
        except (OSError, ValueError) as error:
            raise DataError(f"Shard {url} could not be fetched: {error}.") from error
    return path
