"""What a WebDataset shard holds: a tar file in which the files of a sample share a name.

A sample's name ends at the first dot of a file's name; what stands behind is the kind of the file,
taken whole: ``7.seg.png`` is no picture of sample ``7`` but its ``.seg.png``.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from asap_eval.errors import DataError

LABEL = "cls"


class DamagedShardError(DataError):
    """A shard that is no whole archive."""


_META = re.compile(r"__[^/]*__($|/)")
"""Members that WebDataset keeps for itself."""
_END = 2 * tarfile.BLOCKSIZE
"""Zeros that close an archive."""


@dataclass(frozen=True)
class Part:
    """Where a file lies inside a shard, in bytes."""

    offset: int
    size: int

    def read(self, shard: BinaryIO) -> bytes:
        """The file, from the open shard."""
        shard.seek(self.offset)
        return shard.read(self.size)


@dataclass(frozen=True)
class ShardSample:
    """One sample; None = it has no such file."""

    key: str
    picture: Part | None
    label: Part | None


def samples_of(shard: Path, pictures: Collection[str], named: str | None) -> list[ShardSample]:
    """Samples of a shard in stored order.

    Files of other kinds go with a sample, or with none (a README): they are left out.

    Args:
        pictures: kinds that are pictures. named: the one kind that is; None = what each has.

    Raises:
        DataError: the shard is not whole, or it is open which files make a sample.
    """
    samples: dict[str, dict[str, Part]] = {}
    for name, part in files_of(shard):
        folder, base = posixpath.split(name)
        stem, _, kind = base.partition(".")
        if not stem or _META.search(name):
            continue
        kinds = samples.setdefault(posixpath.join(folder, stem), {})
        if kind.lower() in kinds:
            raise DataError(f"Shard {shard} holds {name} more than once. Keep one of them.")
        kinds[kind.lower()] = part

    def tells(kind: str) -> bool:
        return kind.rpartition(".")[2] in (LABEL, *pictures)

    whole = {key: kinds for key, kinds in samples.items() if any(map(tells, kinds))}
    beside = {kind for kinds in whole.values() for kind in kinds}
    for key, kinds in samples.items():
        if key not in whole and (lone := beside & kinds.keys()):
            raise DataError(
                f"Shard {shard}: sample {key} has .{min(lone)} as others have, but neither a "
                f"picture nor .{LABEL}. Add them, or take the file out."
            )
    return [
        ShardSample(key, _picture(f"Shard {shard}: sample {key}", kinds, pictures, named), label)
        for key, kinds in whole.items()
        for label in [kinds.get(LABEL)]
    ]


def _picture(
    where: str, kinds: Mapping[str, Part], pictures: Collection[str], named: str | None
) -> Part | None:
    if named is not None:
        return kinds.get(named.lower())
    found = [kind for kind in kinds if kind in pictures]
    if len(found) > 1:
        raise DataError(
            f"{where} has {len(found)} pictures, .{' and .'.join(found)}. Name the one to show: "
            f"data=wds/<shards>:{found[0]}"
        )
    if found:
        return kinds[found[0]]
    if dotted := [kind for kind in kinds if kind.rpartition(".")[2] in pictures]:
        raise DataError(
            f"{where} has .{' and .'.join(dotted)}, but no picture with a plain extension; a "
            "sample's name ends at the first dot. Take dots out of the names, or name the picture "
            f"to show: data=wds/<shards>:{dotted[0]}"
        )
    return None


def files_of(shard: Path) -> Iterator[tuple[str, Part]]:
    """Name and place of every file, links followed inside the shard.

    Raises:
        DamagedShardError: it is no whole, uncompressed archive.
        DataError: a file's bytes do not lie in it.
    """
    found: dict[str, Part] = {}
    targets: list[tuple[str, str]] = []
    """Name of each file, and of the file that holds its bytes: another one for a link."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                name = target = posixpath.normpath(member.name)
                if member.islnk():
                    target = posixpath.normpath(member.linkname)
                elif member.issym():
                    target = posixpath.normpath(
                        posixpath.join(posixpath.dirname(name), member.linkname)
                    )
                elif member.isreg() and not member.issparse():
                    found[name] = Part(member.offset_data, member.size)
                targets.append((name, target))
            _check_end(shard, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise DamagedShardError(
            f"Shard {shard} cannot be read: {error}. Shards have to be whole, uncompressed .tar "
            "files."
        ) from error
    links = {name: target for name, target in targets if name != target}
    for name, target in targets:
        for _ in links:
            target = links.get(target, target)
        if target not in found:
            raise DataError(f"Shard {shard}: {name} has no bytes of its own in the shard.")
        yield name, found[target]


def _check_end(shard: Path, offset: int) -> None:
    """Raise `tarfile.ReadError` where the members do not end as an archive does.

    tarfile takes an end of file, and bytes that are no header, for the end of the archive.
    """
    with shard.open("rb") as file:
        file.seek(offset)
        closing = file.read(_END)
        rest = any(any(block) for block in iter(lambda: file.read(1 << 20), b""))
    if len(closing) < _END or any(closing) or rest:
        raise tarfile.ReadError(
            f"the archive does not end behind its last member (byte {offset}): it was cut off, "
            "damaged or joined to another"
        )
