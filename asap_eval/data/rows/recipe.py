"""How files become rows: what `datasets` finds out about a data set, kept for one split of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from asap_eval.data.rows.table import Table
from asap_eval.errors import DataError, first_line, reraised
from asap_eval.files.fingerprint import content_of

_SHARED = {"name", "version", "data_dir", "data_files", "description", "features"}
"""Fields of every config; the others say how its files are read."""
_FOLDERS = ("imagefolder", "videofolder", "audiofolder")
"""Readers that number classes by the folders of all splits, so that they need them all."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows in stored order.

    Attributes:
        data: a data set of `datasets`. files: that hold it. part: which rows of the files they are.
        commits: of the hub's repository it is from, by its name; {} = files of this disk.
    """

    data: Table
    files: Sequence[Path]
    part: str
    commits: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def content(self, pictures: str | None = None) -> str:
        """Changes with the rows: which of the files' rows they are, and the hub's commit, or a hash
        of files of this disk.

        Args:
            pictures: a column whose pictures may lie in files of their own.
        """
        if self.commits:
            held = " ".join(f"{name}@{commit}" for name, commit in self.commits.items())
        else:
            apart = _pointed_to(self.data, pictures) if pictures else ()
            held = content_of([*self.files, *apart])
        return f"{held} {self.part}"


def _pointed_to(data: Table, column: str) -> list[Path]:
    """Files of the pictures whose bytes the rows do not hold."""
    found: list[str | None] = []
    for stored in data.data.column(column).chunks:
        if hasattr(stored, "offsets"):  # a list of pictures
            stored = stored.flatten()
        if hasattr(stored, "field"):
            content, path = stored.field("bytes"), stored.field("path")
            found += path.filter(content.is_null()).to_pylist()
    return [Path(name) for name in found if name]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How files become rows; JSON as `dataclasses.asdict`.

    Attributes:
        reader: of `datasets`. files: by split. options: of the reader.
        features: of the columns, as JSON; None = as the files say.
    """

    reader: str
    files: dict[str, list[str]]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    features: dict[str, Any] | None = None

    def rows(self, split: str, commit: str | None = None) -> Table:
        """The rows of a split.

        Args:
            commit: of the files; None = they are hashed. `datasets` finds what it prepared before
                by this; by itself it would look at the files' times alone.
        """
        import datasets
        from datasets.data_files import DataFilesList

        files = {
            part: DataFilesList(paths, [(commit or content_of([Path(path)]),) for path in paths])
            for part, paths in self.files.items()
        }
        features = None if self.features is None else datasets.Features.from_dict(self.features)
        rows: Table = datasets.load_dataset(
            self.reader, data_files=files, split=split, features=features, **self.options
        )
        return rows


def recipe_of(builder: Any, splits: Sequence[str]) -> Recipe:
    """How some splits of a data set are made."""
    options = {
        field.name: value
        for field in dataclasses.fields(builder.config)
        if field.name not in _SHARED
        and (value := getattr(builder.config, field.name)) != field.default
    }
    files = {str(split): list(paths) for split, paths in builder.config.data_files.items()}
    if builder.name in _FOLDERS:
        return Recipe(builder.name, files, options)
    features = builder.info.features
    return Recipe(
        builder.name,
        {split: files[split] for split in splits},
        options,
        None if features is None else features.to_dict(),
    )


def reading(fault: str) -> AbstractContextManager[None]:
    """Whatever `datasets` and Arrow raise inside, as a `DataError` that begins with ``fault``."""
    return reraised(DataError, lambda error: f"{fault}: {first_line(error)}.")


def builder_of(path: str, config: str | None, where: str, **how: Any) -> Any:
    """What `datasets` knows of a data set before it fetches any of it.

    Raises:
        DataError: a config has to be named, or there is no such.
    """
    import datasets

    try:
        return datasets.load_dataset_builder(path, config, **how)
    except ValueError:
        known = datasets.get_dataset_config_names(path, **how)
        if config in known or (config is None and len(known) < 2):
            raise
        what = "has several configs" if config is None else f"has no config {config}"
        raise DataError(
            f"{where}: the data set {what}; there are {', '.join(known)}. Name one: "
            f"hfds/{path}:{known[0]}@<split>"
        ) from None


def named_splits(split: str, known: Collection[Any], where: str) -> list[str]:
    """The splits that an expression such as ``train[:10]+test`` takes rows of.

    Raises:
        DataError: one of them is not among those that are known.
    """
    names = [part.split("[")[0].strip() for part in split.split("+")]
    if missing := [name for name in names if name not in known]:
        raise DataError(
            f"{where} cannot be opened (no split {missing[0]}; there are "
            f"{', '.join(map(str, known))}). Name a split after @."
        )
    return names
