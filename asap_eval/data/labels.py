"""Labels of images that lie flat in a folder, from a file: ImageNet's own validation set is so."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from asap_eval.errors import DataError
from asap_eval.files.archive import AnyPath

FORMS = (
    "Give a text file with `<file> <class>` a line (a number from 0, a WordNet id or a name), one "
    "class a line in the order of the files, or the challenge's LOC_val_solution.csv."
)
USUAL = ("val.txt", "val_labels.txt", "labels.txt", "LOC_val_solution.csv")
"""What such a file is often called. It is named where one is missing and never taken unasked."""

_SHOWN = 3
_KAGGLE = "ImageId"
"""Head of the first column of the challenge's CSV at Kaggle; behind the class stand boxes."""
_NUMBERED = re.compile(r"_(\d+)\.\w+$")
"""ImageNet's own files end in their number, from 1: ``ILSVRC2012_val_00000293.JPEG``."""


def read_labels(path: AnyPath, files: Sequence[str]) -> list[int | str]:
    """What the class of each file is called: a number from 0, an id or a name.

    Args:
        path: lines of `FORMS`. files: relative paths of the images, sorted.

    Raises:
        DataError: it cannot be read, or does not say the class of every file.
    """
    lines = _lines(path)
    if all(len(cells) == 1 for cells in lines):
        found = _in_order([cells[0] for cells in lines], path, files)
    else:
        found = _by_name(lines, path, files)
    if not all(label.isdecimal() for label in found):
        return list(found)
    numbers = [int(label) for label in found]
    every = {int(cells[-1]) for cells in lines if cells[-1].isdecimal()}
    if 0 not in every and max(every) >= 1000:
        raise DataError(
            f"labels={path} counts classes from 1, as the challenge's own kit does, in an order "
            f"that is not that of WordNet ids, which models are trained in. {FORMS}"
        )
    return list(numbers)


def check_labels(path: AnyPath) -> None:
    """Raise `DataError` where no such file is."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"labels={path} {kind}. {FORMS}")


def hint(folder: AnyPath) -> str:
    """How labels are given for a flat folder: what lies in it or beside it by a usual name."""
    above = [folder.parent] if isinstance(folder, Path) else []
    for place in (folder, *above):
        for name in USUAL:
            if (place / name).is_file():
                return f"labels={place / name}, if that says their classes."
    return f"labels=<file>. {FORMS}"


def _lines(path: AnyPath) -> list[list[str]]:
    """One or two cells a line: file and class, or the class alone."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labels={path} cannot be read ({error}). {FORMS}") from error
    rows = [line.strip() for line in text.splitlines() if line.strip()]
    if not rows:
        raise DataError(f"labels={path} is empty. {FORMS}")
    if rows[0].startswith(_KAGGLE):
        return [[name, said.split()[0]] for name, said, *_ in csv.reader(rows[1:])]
    mark = next((mark for mark in ("\t", ",") if mark in rows[0]), None)
    parts = [[cell.strip() for cell in row.split(mark, 1)] for row in rows]
    first = parts[0][0]
    if mark is None and not any(len(cells) == 2 and "." in cells[0] for cells in parts):
        return [[row] for row in rows]  # names of classes may hold spaces
    if len({len(cells) for cells in parts}) > 1:
        odd = next(row for row, cells in zip(rows, parts, strict=True) if len(cells) == 1)
        raise DataError(f"labels={path}: '{odd}' names no class, '{first}' has one. {FORMS}")
    return parts


def _in_order(labels: Sequence[str], path: AnyPath, files: Sequence[str]) -> list[str]:
    """One label a line: by the number in ImageNet's file names, otherwise file by file."""
    numbers = [int(found[1]) for name in files if (found := _NUMBERED.search(name))]
    if len(numbers) == len(set(numbers)) == len(files) and max(numbers) <= len(labels):
        return [labels[number - 1] for number in numbers]
    if len(labels) != len(files):
        raise DataError(
            f"labels={path} has {len(labels)} lines for {len(files)} images, which are not "
            f"numbered as ImageNet's are. {FORMS}"
        )
    return list(labels)


def _by_name(lines: Sequence[Sequence[str]], path: AnyPath, files: Sequence[str]) -> list[str]:
    """A file and its label a line; files are named with or without folder and ending."""
    named: dict[str, str] = {}
    for name, label in lines:
        if named.setdefault(name, label) != label:
            raise DataError(f"labels={path} gives {name} two classes: {named[name]} and {label}.")
    found: list[str] = []
    without: list[str] = []
    for file in files:
        whole = PurePosixPath(file)
        ways = (file, whole.name, whole.with_suffix("").as_posix(), whole.stem)
        known = [named[way] for way in ways if way in named]
        found += known[:1]
        without += [] if known else [file]
    if without:
        shown = ", ".join(without[:_SHOWN]) + (", ..." if len(without) > _SHOWN else "")
        raise DataError(
            f"labels={path} says nothing of {len(without)} of {len(files)} images: {shown}."
        )
    return found
