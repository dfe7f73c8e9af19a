"""Which videos there are and what their classes are called: class folders, or a CSV.

A data set is a folder with ``train`` and ``val`` (as ``.csv``, or as folders of class folders), one
folder of class folders, or one CSV. A CSV has columns ``path,label`` (a header is not needed; a
space may part them too), or the official ones of Kinetics: ``label youtube_id time_start time_end
split``. Classes are names; ``_`` in one is a space, because Kinetics is stored both ways.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asap_eval.errors import DataError

EXTENSIONS = (
    ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
    ".ogv", ".ts",
)  # fmt: skip

SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "validate", "valid")}
"""Names of a split as a folder, a CSV, or in the column ``split``."""

OFFICIAL = ("label", "youtube_id", "time_start", "time_end")


@dataclass(frozen=True)
class Listing:
    """Videos in a fixed order.

    Attributes:
        ids: path relative to the data, or the official name. paths: where each should be.
        names: class of each.
    """

    ids: list[str]
    paths: list[Path]
    names: list[str]

    @property
    def classes(self) -> list[str]:
        """The names in order; numbers in the order of their values."""
        found = set(self.names)
        numbers = all(name.isdigit() for name in found)
        return sorted(found, key=int) if numbers else sorted(found)


def list_videos(data: str, split: str, videos: str | None = None, *, whole: bool) -> Listing:
    """The videos of one split.

    Args:
        split: ``train`` or ``val``. videos: folder of a CSV's files; None = that of the CSV.
        whole: whether data without splits counts as the one asked for.

    Raises:
        DataError: nothing usable is there; says what to do.
    """
    look(data, videos)
    root = Path(data).expanduser()
    try:
        if root.is_file():
            found = _from_csv(root, split, _folders(videos, root.parent), whole, data)
        elif table := _first(root / f"{name}.csv" for name in SPLITS[split]):
            folders = _folders(videos, root, *(root / name for name in SPLITS[split]))
            found = _from_csv(table, split, folders, True, data)
        elif folder := _first(root / name for name in SPLITS[split]):
            found = _from_folders(folder, root, data)
        elif whole:
            found = _from_folders(root, root, data)
        else:
            raise DataError(
                f"data={data} has no {split} split: it needs {split}/ or {split}.csv beside the "
                "other one. To train a head, both train and val are needed."
            )
    except OSError as error:
        raise DataError(f"data={data} cannot be read: {error}.") from error
    if doubled := len(found.ids) - len(set(found.ids)):
        raise DataError(f"data={data} lists {doubled} videos more than once; each has to be one.")
    return found


def look(data: str, videos: str | None = None) -> None:
    """Raise `DataError` where an address, or the folder of a CSV's files, is not there."""
    if not Path(data).expanduser().exists():
        raise DataError(
            f"data={data} does not exist. Give a folder with train and val (folders of class "
            "folders, or CSV files), a folder of class folders, or a CSV of videos."
        )
    _folders(videos)


def class_name(text: str) -> str:
    """A label or folder as the name of a class."""
    return " ".join(text.replace("_", " ").split())


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _folders(videos: str | None, *usual: Path) -> list[Path]:
    if videos is None:
        return list(usual)
    folder = Path(videos).expanduser()
    if not folder.is_dir():
        raise DataError(f"bench.videos={videos} is not a folder.")
    return [folder]


def _from_folders(top: Path, root: Path, data: str) -> Listing:
    folders = sorted(f for f in top.iterdir() if f.is_dir() and not f.name.startswith("."))
    found = []
    for folder in folders:
        for file in _videos(folder):
            found.append((file.relative_to(root).as_posix(), file, class_name(folder.name)))
    if not found:
        raise DataError(
            f"data={data}: there is no video in the class folders of {top.name}/ (looked for "
            f"{', '.join(EXTENSIONS)} in {len(folders)} folders)."
        )
    if len({class_name(folder.name) for folder in folders}) < len(folders):
        raise DataError(f"data={data}: two class folders have one name (_ counts as a space).")
    found.sort()
    ids, paths, names = map(list, zip(*found, strict=True))
    return Listing(ids, paths, names)


def _videos(folder: Path) -> Iterable[Path]:
    for here, below, files in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield Path(here, name)


def _from_csv(table: Path, split: str, folders: Sequence[Path], whole: bool, data: str) -> Listing:
    rows = _rows(table)
    head = [cell.lower() for cell in rows[0]] if rows else []
    if all(name in head for name in OFFICIAL):
        entries = [_official(dict(zip(head, row, strict=True))) for row in rows[1:]]
        index = _by_name(entries, folders, table)
        paths = [index.get(name, folders[0] / name) for name, _ in entries]
    else:
        columns = (0, 1)
        if "path" in head and "label" in head:
            columns = head.index("path"), head.index("label")
            rows = rows[1:]
        if rows and len(rows[0]) < 2:
            raise DataError(
                f"{table} has {len(rows[0])} column. It needs path,label or the official columns "
                f"{','.join(OFFICIAL)},split."
            )
        entries = [(row[columns[0]], row[columns[1]]) for row in rows]
        paths = [_first(f / name for f in folders) or folders[0] / name for name, _ in entries]
    if "split" in head:
        wanted = _chosen([row[head.index("split")] for row in rows[-len(entries) :]], split, table)
    elif whole:
        wanted = list(range(len(entries)))
    else:
        raise DataError(
            f"data={data} has no column split. To train a head give a folder with train.csv and "
            "val.csv, or a CSV with a column split."
        )
    if not wanted:
        raise DataError(f"{table} lists no video.")
    if empty := [entries[at][0] for at in wanted if not entries[at][1].strip()]:
        raise DataError(f"{table}: {len(empty)} videos have no label, the first is {empty[0]}.")
    return Listing(
        [entries[at][0] for at in wanted],
        [paths[at] for at in wanted],
        [class_name(entries[at][1]) for at in wanted],
    )


def _by_name(
    entries: Sequence[tuple[str, str]], folders: Sequence[Path], table: Path
) -> dict[str, Path]:
    """The file of each official name, whatever its ending and wherever below the folders."""
    wanted = {name for name, _ in entries}
    found: dict[str, Path] = {}
    for file in (file for folder in folders for file in _videos(folder)):
        if file.stem in wanted and found.setdefault(file.stem, file).resolve() != file.resolve():
            raise DataError(
                f"{table}: two files are the video {file.stem}, {found[file.stem]} and {file}. "
                "Leave one of them, or name the folder to take (bench.videos=)."
            )
    return found


def _chosen(values: Sequence[str], split: str, table: Path) -> list[int]:
    chosen = [at for at, value in enumerate(values) if value.lower() in SPLITS[split]]
    if not chosen:
        given = ", ".join(sorted(set(values))) or "nothing"
        raise DataError(
            f"{table}: no row has split {' or '.join(SPLITS[split])}; its column split holds "
            f"{given}."
        )
    return chosen


def _rows(table: Path) -> list[list[str]]:
    """Cells of every line that is not empty; a line without a comma is split at its last space."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as CSV: {error}.") from error
    rows = [row[0].rsplit(None, 1) if len(row) == 1 else row for row in rows]
    if uneven := [at for at, row in enumerate(rows, 1) if len(row) != len(rows[0])]:
        raise DataError(
            f"{table}: row {uneven[0]} has {len(rows[uneven[0] - 1])} cells, the first one "
            f"{len(rows[0])}."
        )
    return rows


def _official(row: dict[str, str]) -> tuple[str, str]:
    """Name of the file without its ending, as the data set's tools write it, and the label."""
    start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
    return f"{row['youtube_id']}_{start:06d}_{end:06d}", row["label"]
