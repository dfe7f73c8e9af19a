"""Rows of a folder of this disk."""

from __future__ import annotations

import re
from pathlib import Path

from asap_eval.data.rows.recipe import Rows, builder_of, named_splits, reading, recipe_of
from asap_eval.errors import DataError


def saved_rows(folder: Path, split: str, said: bool, where: str) -> Rows:
    """What `save_to_disk` left: the rows of one split, or a folder for each.

    Raises:
        DataError: it cannot be read, or holds another split.
    """
    import datasets

    with reading(f"{where} cannot be opened"):
        data = datasets.load_from_disk(str(folder))
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            named_splits(split, data, where)
            raise DataError(f"{where}: slices and sums of splits are not for what was saved.")
        data = data[split]
    elif own := re.match(r"\w+", str(data.split or "")):
        if own[0] != split:
            raise DataError(f"{where}: it holds the split {own[0]}. Say hfds/{folder}@{own[0]}.")
    elif said:
        raise DataError(f"{where}: it does not say which split it holds. Say hfds/{folder}.")
    return Rows(data, [Path(file["filename"]) for file in data.cache_files], split)


def local_rows(folder: Path, config: str | None, split: str, where: str) -> Rows:
    """Files that `datasets` can read.

    Raises:
        DataError: there are none, or not of this split and config.
    """
    with reading(f"{where} cannot be opened"):
        builder = builder_of(str(folder), config, where)
        recipe = recipe_of(builder, named_splits(split, builder.config.data_files, where))
        files = [Path(path) for paths in recipe.files.values() for path in paths]
        return Rows(recipe.rows(split), files, split)
