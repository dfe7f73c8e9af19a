"""Which of many files hold a split, by their names: ``val-00.tar``, ``test-0-of-4.parquet``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from asap_eval.errors import DataError, some_of

SPLITS = (
    ("train", "training"),
    ("validation", "val", "valid", "dev"),
    ("test", "testing"),
)
"""Words that mean one split each."""

_SHOWN = 4


def of_split(
    names: Sequence[str], split: str, *, said: bool, where: str, instead: str
) -> list[str]:
    """The files of a split, in the given order.

    A name says its split by a word with no letter beside it; the split's own name wins over its
    synonyms. Where no name has such a word, all files are one set and are taken, unless the split
    was asked for.

    Args:
        names: of files, without folders. said: whether the split was asked for, or is the default.
        where, instead: what an error begins and ends with: the data, and what to give in its place.

    Raises:
        DataError: none of the files is the split's by its name, or it is open which are.
    """
    own = next((words for words in SPLITS if split.lower() in words), (split.lower(),))
    others = [word for words in SPLITS if words != own for word in words]
    words = {word: [name for name in names if _has(name, word)] for word in own}
    used = [word for word, found in words.items() if found]
    if split.lower() in used:
        used = [split.lower()]
    if len(used) > 1:
        raise DataError(f"{where}: {' and '.join(used)} are in the files' names. {instead}")
    found = words[used[0]] if used else []
    if both := [name for name in found if any(_has(name, word) for word in others)]:
        raise DataError(f"{where}: {both[0]} names more than one split. {instead}")
    if found:
        return found
    if not said and not any(_has(name, word) for name in names for word in others):
        return list(names)
    raise DataError(
        f"{where}: no file says that it is of the split {split}; there are "
        f"{some_of(names, _SHOWN)}. {instead}"
    )


def _has(name: str, word: str) -> bool:
    return re.search(rf"(?<![a-z]){re.escape(word.lower())}(?![a-z])", name.lower()) is not None
