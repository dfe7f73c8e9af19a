"""Which shards an address means, and a local copy of each."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from asap_eval.data.shards.fetched import Fetched, fetch_again, fetch_all
from asap_eval.data.shards.members import DamagedShardError, ShardSample, samples_of
from asap_eval.data.splits import of_split
from asap_eval.errors import DataError

_INDEX = ("_info.json", "info.json")
"""timm's index of a folder of shards."""

_GIVE = (
    "Give the shards themselves, wds/<folder>/val-{00..63}.tar, or a folder with _info.json, or "
    "name the shards by their split."
)


@dataclass
class Shard:
    """One shard.

    Attributes:
        path: on this disk. count: samples that it should have, None = nobody says.
        copy: what was fetched, None = it is the user's own.
    """

    path: Path
    count: int | None = None
    copy: Fetched | None = None

    def samples(self, pictures: Collection[str], named: str | None) -> list[ShardSample]:
        """Its samples, as `samples_of`; a fetched shard that is not whole is fetched again, once.

        Raises:
            DataError: as `samples_of`, or another number of samples than `count`.
        """
        try:
            found = samples_of(self.path, pictures, named)
        except DamagedShardError:
            if self.copy is None:
                raise
            self.copy = fetch_again(self.copy)
            self.path = self.copy.path
            try:
                found = samples_of(self.path, pictures, named)
            except DamagedShardError as error:
                raise DataError(f"{error} It was fetched twice, from {self.copy.url}.") from error
        if self.count is not None and len(found) != self.count:
            raise DataError(
                f"Shard {self.copy.url if self.copy else self.path} has {len(found)} samples, but "
                f"its index says {self.count}. Fetch the shard again, or correct the index."
            )
        return found


def list_shards(name: str, split: str, *, said: bool) -> list[Shard]:
    """The shards of an address, in the order of their names.

    Args:
        name: a pattern such as ``val-{00..63}.tar``, or a folder of shards, with timm's
            ``_info.json`` or without; on this disk or at an address, from which they are fetched.
        split: which of them. said: whether the address names it, or it is the default.

    Raises:
        DataError: there are none, a file is missing, or it is open which are of the split.
    """
    from webdataset.shardlists import expand_urls

    where = f"data=wds/{name}"
    remote = re.match(r"[a-z]+://", name) is not None
    root = name.rstrip("/") if remote else str(Path(name).expanduser())
    counts: Sequence[int | None] | None = None
    if name.endswith(".tar"):
        found = [str(url) for url in expand_urls(root)]
        if said:
            found = _of_split(found, split, said=True, where=where)
    elif remote or any(Path(root, index).is_file() for index in _INDEX):
        names, counts = _indexed(root, split)
        found = [f"{root}/{file}" for file in names]
    elif Path(root).is_dir():
        found = sorted(str(file) for file in Path(root).glob("*.tar"))
        found = _of_split(found, split, said=said, where=where)
    else:
        raise DataError(f"{where} does not exist. Give a folder of .tar shards or a pattern.")
    if not found:
        raise DataError(
            f"{where}: there is no .tar file. Give a folder of .tar shards or a pattern."
        )
    if len(set(found)) < len(found):
        raise DataError(f"{where} names a shard more than once. Name each once.")
    each = counts or [None] * len(found)
    if remote:
        copies = fetch_all(found)
        return [Shard(c.path, count, c) for c, count in zip(copies, each, strict=True)]
    shards = [Shard(Path(file), count) for file, count in zip(found, each, strict=True)]
    if absent := [shard.path for shard in shards if not shard.path.is_file()]:
        raise DataError(
            f"{where}: shard {absent[0]} does not exist. Give a folder of .tar shards or a pattern."
        )
    return shards


def _of_split(files: Sequence[str], split: str, *, said: bool, where: str) -> list[str]:
    """Files of a split, by their names."""
    by_name = {file.rsplit("/", 1)[-1]: file for file in files}
    if len(by_name) < len(files):
        raise DataError(f"{where}: shards of several folders have one name. {_GIVE}")
    found = of_split(list(by_name), split, said=said, where=where, instead=_GIVE)
    return [by_name[name] for name in found]


def _indexed(root: str, split: str) -> tuple[Sequence[str], Sequence[int | None] | None]:
    """Names of a split's shards in timm's index, and the samples of each where it says them."""
    from timm.data.readers.reader_wds import ReaderWds

    try:
        found = ReaderWds(root=root, split=split).split_info
    except (RuntimeError, KeyError) as error:
        raise DataError(
            f"data=wds/{root}@{split}: {error}. Name a split of its _info.json after @."
        ) from error
    counts = found.shard_lengths if len(found.shard_lengths) == len(found.filenames) else None
    return found.filenames, counts
