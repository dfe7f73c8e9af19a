"""Folders in a ``.zip``: a path that goes on inside the archive reads like one of the disk.

``photos.zip/cat/1.png`` is what unpacking ``photos.zip`` would put at ``cat/1.png``. A `ZipPath`
has those methods of `pathlib.Path` that readers of folders use, so that they need not know which of
the two they read. Where each file lies is read once; every reading of a file opens the archive
anew, as it would a file of the disk. So threads and processes share no handle, and a path can be
pickled.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

from asap_eval.errors import DataError

ENDING = ".zip"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_MAC = "__MACOSX/"
"""Folder in which macOS keeps attributes of the files beside it; unpacking there makes none."""
_LOCKED = 0x1 | 0x20 | 0x40 | 0x2000
"""Flags of files that are encrypted, or patches of other files."""
_HEADER = struct.Struct("<4s22xHH")
"""What stands before a file: its mark, then the lengths of its name and of what follows the name.
Of the rest the archive's list at its end decides."""
_MARK = b"PK\x03\x04"


class Entry(NamedTuple):
    """Where a file lies in an archive, and what its list says of it."""

    header: int
    packed: int
    size: int
    method: int
    crc: int


class Archive:
    """What an archive lists.

    Attributes:
        files: by their paths inside. folders: what each one holds directly; ``""`` is the top.

    Raises:
        DataError: it cannot be read, or holds what cannot be read like a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Entry] = {}
        self.folders: dict[str, list[str]] = {"": []}
        try:
            length = path.stat().st_size
            with zipfile.ZipFile(path) as opened:
                listed = opened.infolist()
        except (
            zipfile.BadZipFile,
            OSError,
            NotImplementedError,
            ValueError,
            struct.error,
        ) as error:
            raise DataError(f"Archive {path} cannot be read: {error}.") from error
        for info in listed:
            if info.filename.startswith(_MAC):
                continue
            name = self._inside(info.filename)
            if info.is_dir():
                self._add_folder(name)
                continue
            self._check(info, length)
            if name in self.files:
                raise DataError(f"Archive {path} holds {name} more than once. Keep one of them.")
            self.files[name] = Entry(
                info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC
            )
            folder, _, base = name.rpartition("/")
            self._add_folder(folder)
            self.folders[folder].append(base)
        if both := self.files.keys() & self.folders.keys():
            raise DataError(f"Archive {path} holds {min(both)} as a file and as a folder.")

    def _inside(self, name: str) -> str:
        """A listed name as a path below the top."""
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name:
            raise DataError(
                f"Archive {self.path} holds {name!r}, which is no path inside it. Make it anew, of "
                "relative paths with / between their parts."
            )
        return inside.as_posix() if inside.parts else ""

    def _check(self, info: zipfile.ZipInfo, length: int) -> None:
        where = f"Archive {self.path}: {info.filename}"
        if info.flag_bits & _LOCKED:
            raise DataError(f"{where} is encrypted. Make the archive without a password.")
        if info.compress_type not in METHODS:
            how = f"by method {info.compress_type}. Make the archive by store (0) or deflate (8)."
            raise DataError(f"{where} is packed {how}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{where} is a link. Make the archive of what it leads to.")
        if info.header_offset < 0 or info.header_offset + info.compress_size > length:
            raise DataError(f"{where} lies outside the archive, which was cut off or damaged.")

    def _add_folder(self, name: str) -> None:
        """A folder, and those that it lies in: not every archive lists them."""
        missing = []
        while name not in self.folders:
            missing.append(name)
            name = name.rpartition("/")[0]
        for folder in reversed(missing):
            above, _, base = folder.rpartition("/")
            self.folders[above].append(base)
            self.folders[folder] = []

    def read(self, name: str) -> bytes:
        """A file, unpacked and held against its checksum; raises `OSError`."""
        entry = self.files.get(name)
        where = f"{self.path}/{name}"
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)
        with self.path.open("rb") as file:
            file.seek(entry.header)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size or not header.startswith(_MARK):
                raise OSError(errno.EIO, "the archive is damaged before it", where)
            _, named, more = _HEADER.unpack(header)
            file.seek(named + more, os.SEEK_CUR)
            content = file.read(entry.packed)
        if entry.method == zipfile.ZIP_DEFLATED:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, entry.size + 1)
            except zlib.error as error:
                raise OSError(errno.EIO, f"the archive is damaged: {error}", where) from error
        if len(content) != entry.size or zlib.crc32(content) != entry.crc:
            raise OSError(errno.EIO, "it is not what its checksum in the archive says", where)
        return content


@dataclass(frozen=True)
class ZipPath:
    """A file or folder of an archive; ``at`` is its path inside, ``""`` the top."""

    archive: Archive
    at: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.at).name or self.archive.path.name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def __str__(self) -> str:
        return f"{self.archive.path}/{self.at}" if self.at else str(self.archive.path)

    def __truediv__(self, name: str) -> ZipPath:
        return ZipPath(self.archive, f"{self.at}/{name}" if self.at else name)

    def __lt__(self, other: ZipPath) -> bool:
        return self.at.split("/") < other.at.split("/")

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        return self.at in self.archive.files

    def is_dir(self) -> bool:
        return self.at in self.archive.folders

    def iterdir(self) -> Iterator[ZipPath]:
        if not self.is_dir():
            code = errno.ENOTDIR if self.is_file() else errno.ENOENT
            raise OSError(code, os.strerror(code), str(self))
        return (self / name for name in self.archive.folders[self.at])

    def rglob(self, pattern: Literal["*"]) -> Iterator[ZipPath]:
        for here, folders, files in self.walk():
            yield from (here / name for name in (*folders, *files))

    def walk(self) -> Iterator[tuple[ZipPath, list[str], list[str]]]:
        waiting = [self]
        while waiting:
            here = waiting.pop()
            below = [(entry.name, entry.is_dir()) for entry in here.iterdir()]
            folders = [name for name, is_folder in below if is_folder]
            yield here, folders, [name for name, is_folder in below if not is_folder]
            waiting.extend(here / name for name in reversed(folders))

    def read_bytes(self) -> bytes:
        return self.archive.read(self.at)

    def open(self, mode: Literal["rb"], buffering: int = -1) -> BinaryIO:
        return io.BytesIO(self.read_bytes())

    def stat(self) -> os.stat_result:
        """The archive's, with the size of the file: another archive is another file."""
        if (entry := self.archive.files.get(self.at)) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        own = self.archive.path.stat()
        times = {name: getattr(own, name) for name in ("st_mtime_ns", "st_ctime_ns")}
        return os.stat_result((*own[:6], entry.size, *own[7:10]), times)


AnyPath: TypeAlias = "Path | ZipPath"


def path_of(address: str) -> AnyPath:
    """What an address of files means: a path of the disk, or one that goes on inside a ``.zip``.

    Raises:
        DataError: see `Archive`.
    """
    path = Path(address).expanduser()
    for archive in (path, *path.parents):
        if archive.suffix.lower() == ENDING and archive.is_file():
            inside = path.relative_to(archive).as_posix()
            return ZipPath(Archive(archive), "" if inside == "." else inside)
    return path


def relative(file: AnyPath, folder: AnyPath) -> str:
    """The path of a file from a folder that it lies in, with ``/`` between its parts."""
    if isinstance(file, Path) and isinstance(folder, Path):
        return file.relative_to(folder).as_posix()
    assert isinstance(file, ZipPath)
    assert isinstance(folder, ZipPath)
    return PurePosixPath(file.at).relative_to(folder.at).as_posix()


def walk(folder: AnyPath) -> Iterator[tuple[AnyPath, list[str], list[str]]]:
    """`os.walk` through links: each folder, with the names of the folders and files directly in it.

    Raises:
        OSError: a folder cannot be read.
    """
    if isinstance(folder, ZipPath):
        yield from folder.walk()
        return
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        yield Path(here), folders, files


def _raise(error: OSError) -> None:
    raise error
