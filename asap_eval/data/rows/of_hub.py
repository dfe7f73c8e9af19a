"""Rows of a data set of the hub, of which only the split's own files are fetched.

What a split is made of is noted beside what `datasets` prepares: later runs need no network.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from asap_eval.data.rows.recipe import Recipe, Rows, builder_of, named_splits, reading, recipe_of
from asap_eval.data.rows.table import Table
from asap_eval.errors import DataError, reraised
from asap_eval.files.placed import placed
from asap_eval.hub import errors as hub
from asap_eval.hub.files import fetch, parts_of

_TOGETHER = 4
"""Files that are fetched at a time."""


def hub_rows(name: str, config: str | None, split: str, where: str) -> Rows:
    """One split of a data set at the hub's latest commit; without the hub, as it was fetched last.

    Raises:
        DataError: it cannot be had.
    """
    from huggingface_hub import constants

    note = _Note(name, config, split)
    try:
        commit = _commit(name)
    except MemoryError:
        raise
    except Exception as error:  # clients of the hub share no base class
        why = hub.explained(error, where, hub.address(name, "dataset"))
        if hub.refuses(error) or (rows := _without_hub(note, where)) is None:
            raise DataError(why) from error
        if not constants.HF_HUB_OFFLINE:  # there it is what was asked for
            warnings.warn(f"{why} Taken as fetched before: {rows.content()}.", stacklevel=2)
        return rows
    page = hub.address(name, "dataset")
    with reraised(DataError, lambda error: hub.explained(error, where, page)):
        recipe, expected = _fetched(name, config, split, commit, where)
    note.write(recipe, commit)
    rows = _made(recipe, note, commit, where)
    for part, count in expected.items():
        if (found := rows.data.info.splits[part].num_examples) != count:
            raise DataError(
                f"{where}: the files of {part} hold {found} rows, but the data set's card says "
                f"{count}. Ask its authors, or give files that you trust: data=<parquet>."
            )
    return rows


def _commit(name: str) -> str:
    """The latest commit."""
    from huggingface_hub import HfApi, constants

    return str(HfApi(endpoint=constants.ENDPOINT).dataset_info(name).sha)


def _fetched(
    name: str, config: str | None, split: str, commit: str, where: str
) -> tuple[Recipe, dict[str, int]]:
    """How a split is made of files of this disk, and rows that its parts should have."""
    builder = builder_of(name, config, where, revision=commit)
    recipe = recipe_of(builder, named_splits(split, builder.config.data_files, where))
    with ThreadPoolExecutor(_TOGETHER) as pool:
        files = {part: list(pool.map(_fetched_file, urls)) for part, urls in recipe.files.items()}
    known = builder.info.splits or {}
    expected = {part: known[part].num_examples for part in files if part in known}
    return replace(recipe, files=files), {k: v for k, v in expected.items() if v is not None}


def _fetched_file(url: str) -> str:
    """Where a file lies on this disk; addresses outside the hub are left to `datasets`."""
    found = parts_of(url)
    if found is None:
        return url
    return str(fetch(found.repository, found.file, "dataset", found.revision).path)


def _made(recipe: Recipe, note: _Note, commit: str, where: str) -> Rows:
    with reading(f"{where} cannot be read"):
        data = recipe.rows(note.split, commit)
    return _rows(data, note, commit)


def _rows(data: Table, note: _Note, commit: str) -> Rows:
    files = [Path(file["filename"]) for file in data.cache_files]
    return Rows(data, files, f"{note.config or 'default'}@{note.split}", {note.name: commit})


def _without_hub(note: _Note, where: str) -> Rows | None:
    """What was fetched before, by this package or by `datasets`; None = nothing was."""
    from datasets.packaged_modules.cache.cache import Cache

    if (found := note.read()) is not None:
        recipe, commit = found
        return _made(recipe, note, commit, where)
    own = note.name.rpartition("/")[2]
    try:  # what load_dataset falls back to, without its asking the hub again
        builder = Cache(
            repo_id=note.name,
            dataset_name=own,
            config_name=note.config,
            version="auto",
            hash="auto",
        )
    except ValueError:
        return None
    with reading(f"{where} cannot be read"):
        builder.download_and_prepare()
        named_splits(note.split, builder.info.splits, where)
        data = builder.as_dataset(split=note.split)
    return _rows(data, note, str(builder.hash))


class _Note:
    """What a split was made of when the hub was last asked."""

    def __init__(self, name: str, config: str | None, split: str) -> None:
        import datasets
        from huggingface_hub import constants

        self.name, self.config, self.split = name, config, split
        asked = json.dumps([constants.ENDPOINT, name, config, split])
        folder = Path(datasets.config.HF_DATASETS_CACHE).expanduser() / "asap_eval"
        self.path = folder / f"{sha256(asked.encode()).hexdigest()}.json"

    def write(self, recipe: Recipe, commit: str) -> None:
        text = json.dumps({"commit": commit, "recipe": asdict(recipe)}, indent=1)
        with placed(self.path) as part:
            part.write_text(text, encoding="utf-8")

    def read(self) -> tuple[Recipe, str] | None:
        """The recipe and its commit; None where nothing is noted, or its files are gone."""
        try:
            found: Mapping[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return Recipe(**found["recipe"]), found["commit"]
        except (OSError, ValueError, KeyError, TypeError):  # none, or a damaged one
            return None
