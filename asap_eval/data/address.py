"""What an address of labelled images means: class folders, rows of a data set, or shards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeGuard

from asap_eval.data.classes import Classes
from asap_eval.data.flat import TAR, look_flat, open_flat
from asap_eval.data.folders import FolderStore, look_into, top_of
from asap_eval.data.labels import check_labels
from asap_eval.data.named import near
from asap_eval.data.packages import needed
from asap_eval.data.rows import open_files, open_split
from asap_eval.data.rows.store import RowStore
from asap_eval.data.shards.listing import list_shards
from asap_eval.data.shards.store import ShardStore
from asap_eval.data.splits import of_split
from asap_eval.data.stores import Store
from asap_eval.errors import DataError
from asap_eval.files.archive import AnyPath, path_of

SPLIT = "validation"
"""Split of a data set where its address names none (``hfds/<name>@<split>``)."""


def open_store(data: str, classes: Classes, labels: str | None = None) -> Store:
    """The store an address means.

    Args:
        data: a folder, also in an archive (`path_of`), a parquet file,
            ``hfds/<data set>[:<config>][@<split>]`` or
            ``wds/<shards>[:<kind of the picture's files>][@<split>]``.
        labels: file with the classes of images that lie flat in a folder or tar; see `read_labels`.

    Raises:
        DataError: nothing usable is there; says what to do.
    """
    kind, rest = _kind(data, labels)
    if kind == "hfds":
        name, config, split, said = address_parts(rest)
        return RowStore(open_split(name, split, config=config, said=said), f"data={data}", classes)
    if kind == "wds":
        name, picture, split, said = address_parts(rest)
        return ShardStore(list_shards(name, split, said=said), classes, picture)
    root = _root(data, labels)
    if labels is not None:
        return open_flat(top_of(root, data), data, labels, classes)
    if _is_parquet(root):
        return RowStore(open_files(_parquet(root, data)), f"data={data}", classes)
    return FolderStore(root, data, classes)


def look(data: str, labels: str | None = None) -> None:
    """Refuse what `open_store` would refuse whatever the model's classes are, as far as that can be
    seen at a glance: nothing is fetched, no folder is listed whole, and no file is read but the
    list of an archive.

    Raises:
        DataError: nothing usable is there; says what to do.
    """
    if _kind(data, labels)[0]:
        return
    root = _root(data, labels)
    if labels is not None:
        look_flat(top_of(root, data), data, labels)
    elif not _is_parquet(root):
        look_into(root, data)


def _kind(data: str, labels: str | None) -> tuple[str, str]:
    """Kind of an address and what stands behind it; ``("", "")`` for a path.

    Raises:
        DataError: the kind lacks its package or takes no labels, or it is a path of this disk that
            is not there.
    """
    kind, _, rest = data.partition("/")
    if kind not in ("hfds", "wds") or not rest:
        return "", ""
    if labels is not None:
        raise DataError(
            f"data={data} says its labels itself; labels={labels} is for images that lie flat in a "
            "folder or a tar. Leave it out."
        )
    needed({"hfds": "datasets", "wds": "webdataset"}[kind], f"data={data}")
    name = address_parts(rest)[0]
    here = name.startswith(("/", "~", "./", "../")) and not re.search(r"[*?{\[]", name)
    if here and not Path(name).expanduser().exists():
        raise DataError(f"data={data}: {name} does not exist.")
    return kind, rest


def _root(data: str, labels: str | None) -> AnyPath:
    """Where a path leads: a folder, a parquet file, or with labels a tar.

    Raises:
        DataError: it leads nowhere, or to another file.
    """
    root = path_of(data)
    if "://" in data:
        raise DataError(
            f"data={data}: of addresses of the web only shards are read (data=wds/<address>). "
            "Fetch it, and give the folder or .zip."
        )
    if not root.exists():
        raise DataError(
            f"data={data} does not exist.{near(data)} Give a folder of class folders, an ImageNet "
            "folder with `val`, a .zip of either, a parquet file or folder, "
            "hfds/<Hugging Face data set> or wds/<shards>."
        )
    if labels is not None:
        check_labels(path_of(labels))
    elif _is_parquet(root):
        needed("datasets", f"data={data}")
    elif root.is_file():
        raise DataError(
            f"data={data} is a file. Give the folder that holds the class folders"
            + (
                f", wds/{data} for a shard, or labels=<file> beside it for a tar of images."
                if root.suffix == TAR
                else "."
            )
        )
    return root


def _is_parquet(root: AnyPath) -> TypeGuard[Path]:
    return isinstance(root, Path) and (
        root.suffix == ".parquet" or (root.is_dir() and any(root.glob("*.parquet")))
    )


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
