"""Rows of data sets: one split of one config, from the hub or this disk.

`datasets` prepares every split of a data set once it is asked for one. Here it is asked for the
list of files alone and then given those of the split: nothing else is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asap_eval.data.rows.of_disk import local_rows, saved_rows
from asap_eval.data.rows.of_hub import hub_rows
from asap_eval.data.rows.recipe import Recipe, Rows, reading

__all__ = ["Rows", "open_files", "open_split"]


def open_split(
    name: str,
    split: str,
    *,
    config: str | None = None,
    said: bool = True,
    where: str | None = None,
) -> Rows:
    """One split of a data set.

    Args:
        name: of the hub's data set, or a folder of this disk: one that `datasets` can load, or one
            that it saved.
        split: as `datasets` takes it, so ``test[:100]`` too. said: whether it was asked for, or is
            the default. config: of data sets that have several. where: what errors call it; None =
            its address.

    Raises:
        DataError: it cannot be had; says what to do.
    """
    where = where or f"data=hfds/{name}{f':{config}' if config else ''}@{split}"
    folder = Path(name).expanduser()
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return saved_rows(folder, split, said, where)
    if folder.is_dir():
        return local_rows(folder, config, split, where)
    return hub_rows(name, config, split, where)


def open_files(files: Sequence[Path]) -> Rows:
    """All rows of parquet files.

    Raises:
        DataError: they cannot be read.
    """
    recipe = Recipe("parquet", {"rows": [str(file.resolve()) for file in files]})
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()  # nothing is fetched
    try:
        with reading(f"{files[0]} cannot be read as parquet"):
            return Rows(recipe.rows("rows"), files, "rows")
    finally:
        if shown:
            datasets.enable_progress_bars()
