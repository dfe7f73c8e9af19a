"""What an address of labelled images means: class folders, rows of a data set, or shards."""

from __future__ import annotations

import re
from pathlib import Path

from asap_eval.data.classes import Classes
from asap_eval.data.flat import TAR, open_flat
from asap_eval.data.folders import FolderStore, top_of
from asap_eval.data.named import near
from asap_eval.data.packages import needed
from asap_eval.data.rows import open_files, open_split
from asap_eval.data.rows.store import RowStore
from asap_eval.data.shards.listing import list_shards
from asap_eval.data.shards.store import ShardStore
from asap_eval.data.splits import of_split
from asap_eval.data.stores import Store
from asap_eval.errors import DataError
from asap_eval.files.archive import path_of

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
    kind, _, rest = data.partition("/")
    if labels is not None and kind in ("hfds", "wds") and rest:
        raise DataError(
            f"data={data} says its labels itself; labels={labels} is for images that lie flat in a "
            "folder or a tar. Leave it out."
        )
    if kind == "hfds" and rest:
        needed("datasets", f"data={data}")
        name, config, split, said = address_parts(rest)
        return RowStore(open_split(name, split, config=config, said=said), f"data={data}", classes)
    if kind == "wds" and rest:
        needed("webdataset", f"data={data}")
        name, picture, split, said = address_parts(rest)
        return ShardStore(list_shards(name, split, said=said), classes, picture)
    root = path_of(data)
    if not root.exists():
        raise DataError(
            f"data={data} does not exist.{near(data)} Give a folder of class folders, an ImageNet "
            "folder with `val`, a .zip of either, a parquet file or folder, "
            "hfds/<Hugging Face data set> or wds/<shards>."
        )
    if labels is not None:
        return open_flat(top_of(root, data), data, labels, classes)
    if isinstance(root, Path) and (
        root.suffix == ".parquet" or (root.is_dir() and any(root.glob("*.parquet")))
    ):
        needed("datasets", f"data={data}")
        return RowStore(open_files(_parquet(root, data)), f"data={data}", classes)
    if root.is_file():
        raise DataError(
            f"data={data} is a file. Give the folder that holds the class folders"
            + (
                f", wds/{data} for a shard, or labels=<file> beside it for a tar of images."
                if root.suffix == TAR
                else "."
            )
        )
    return FolderStore(root, data, classes)


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
