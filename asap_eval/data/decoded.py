"""Decoded pictures kept on the disk: later rows of a table, sweeps and resumed runs decode nothing.

One file holds the pictures of one set after all steps on pictures, as bytes ``[n, 3, H, W]``. Its
name is a hash of all that decides them: the images' content, ids and order, those steps, and the
packages and the code that decode. Before the pictures stand a line for each, an entry that says who
wrote it and its checksum, and before these the passes that are confirmed.

A picture is read only if its entry is of a confirmed pass and its checksum is right. A pass is
confirmed at its end, once the images are found to be what they were at its beginning. So nothing
half-written, of an interrupted pass or of images that changed meanwhile is ever read, and processes
that write the same file at once write the same bytes or lose an entry. Files are read and written,
not mapped: of a mapped file, a full disk or a file cut short kills the process.

Images that cannot be decoded are tried again each time: they fail alike, and what was only missing
for a moment is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import features
from torch import Tensor

from asap_eval.data.transforms import PictureSteps
from asap_eval.errors import DataError
from asap_eval.files.placed import placed

WORTH = 16 << 20
"""Bytes of pictures from which on they are kept: fewer (111 at 224 pixels) are soon decoded."""
LIMIT = 32 << 30
"""Bytes that all files may take together; the one that was used longest ago goes first."""
SHARE = 0.25
"""Of the free disk, what a new file may take."""

ENDING = ".pictures"
_CODE = ("decoding.py", "transforms.py", "images.py")
"""Files beside this one whose code decides what a decoded picture is."""

_MARK = b"asap-eval pictures 1\n"
_PASSES, _HEADER = 128, 4096
"""Where the ids of confirmed passes begin, and where they end."""
_ID = 8
_NOBODY = bytes(_ID)
_ENTRY = struct.Struct(f"<{_ID}sI?3x")
"""Who wrote it, the picture's checksum, and whether there is a picture: else it cannot be read."""


class Sources(NamedTuple):
    """The images of a set, as far as they decide its pictures.

    Attributes:
        ids: in order. content: hash of what is stored; read anew whenever it is asked for. Raises
            `DataError` where that can be said to be another one than where a command began.
        upright: whether they are turned.
    """

    ids: Sequence[str]
    content: Callable[[], str]
    upright: bool


@dataclass(frozen=True)
class PictureCache:
    """Where decoded pictures are kept.

    Attributes:
        folder: of the files. say: tells a person, in one line, what is kept or why it is not.
    """

    folder: Path
    say: Callable[[str], None]

    def open(self, sources: Sources, steps: PictureSteps, start: int, stop: int) -> Pass | None:
        """A pass over images ``start`` to ``stop`` of a set; None where no pictures are kept."""
        shape, content, count = steps.shape(), sources.content(), len(sources.ids)
        if shape is None or count * _bytes(shape) < WORTH:
            return None
        facts = [sources.ids, content, sources.upright, shape, steps.describe(), _decoder()]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        path = self.folder / f"{key}{ENDING}"
        head = _MARK + key.encode()
        size = _HEADER + count * (_ENTRY.size + _bytes(shape))
        try:
            if not _there(path, head, size) and not self._make(path, head, size):
                return None
            os.utime(path)
            kept = Kept(path, count, shape, frozenset(_confirmed(path)))
            writes = kept.missing(start, stop) > 0
            return Pass(kept, sources, content, start, stop, writes, self.say)
        except OSError as error:
            self.say(f"note: decoded images are not kept in {self.folder}: {error.strerror}.")
            return None

    def _make(self, path: Path, head: bytes, size: int) -> bool:
        """A file without pictures, if there is room for it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if size > LIMIT:
            self._refuse(size, f"all such files may take {LIMIT / 1e9:.1f} GB")
            return False
        self._make_room(size)
        free = shutil.disk_usage(self.folder).free
        if size > SHARE * free:
            self._refuse(size, f"of the {free / 1e9:.1f} GB that are free they may take a quarter")
            return False
        with placed(path) as part, part.open("wb") as file:
            file.write(head)
            file.truncate(size)
        self.say(
            f"note: decoded images are kept in {self.folder} ({size / 1e9:.2f} GB), so that later "
            "rows need not decode them; cache=off keeps none."
        )
        return True

    def _refuse(self, size: int, why: str) -> None:
        self.say(
            f"note: decoded images are not kept: they would take {size / 1e9:.2f} GB in "
            f"{self.folder}, and {why}."
        )

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago until so many bytes fit under the limit."""
        found = []
        for path in self.folder.glob(f"*{ENDING}"):
            with suppress(OSError):  # another process was faster
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = size + sum(taken for _, taken, _ in found)
        for _, taken, path in sorted(found):
            if total <= LIMIT:
                break
            with suppress(OSError):
                path.unlink()
                total -= taken


@dataclass(frozen=True)
class Kept:
    """The kept pictures of a set, by their places in it; travels to decoding processes.

    Attributes:
        path: of the file. count: images of the set. shape: of a picture's bytes.
        passes: ids of those whose pictures may be read. own: of the present one.
    """

    path: Path
    count: int
    shape: tuple[int, ...]
    passes: frozenset[bytes]
    own: bytes = field(default_factory=lambda: secrets.token_bytes(_ID))

    def read(self, at: int) -> Tensor | None:
        """A picture's bytes; None where it is not kept."""
        picture = torch.empty(self.shape, dtype=torch.uint8)
        content = picture.numpy().data.cast("B")
        try:
            # Opened anew for each: processes share no position, and hold no file that was removed.
            with self.path.open("rb", buffering=0) as file:
                file.seek(self._entry(at))
                entry = file.read(_ENTRY.size)
                if len(entry) < _ENTRY.size:
                    return None
                owner, checksum, readable = _ENTRY.unpack(entry)
                if owner not in self.passes or not readable:
                    return None
                file.seek(self._slot(at))
                whole = file.readinto(content) == len(content)
        except OSError:  # removed meanwhile, to make room for another
            return None
        return picture if whole and zlib.crc32(content) == checksum else None

    def write(self, at: int, picture: Tensor | None) -> None:
        """Keep a picture's bytes; None = the image cannot be read."""
        if picture is None:
            self._put(at, b"", readable=False)
        elif tuple(picture.shape) == self.shape:
            self._put(at, picture.numpy().data.cast("B"), readable=True)

    def _put(self, at: int, content: bytes | memoryview, *, readable: bool) -> None:
        # Where the disk is full or the file is gone, the pass finds pictures missing at its end.
        with suppress(OSError), self.path.open("r+b", buffering=0) as file:
            file.seek(self._slot(at))
            if file.write(content) == len(content):
                file.seek(self._entry(at))
                file.write(_ENTRY.pack(self.own, zlib.crc32(content), readable))

    def missing(self, start: int, stop: int) -> int:
        """How many images ``start`` to ``stop`` are not kept; those of this pass count as kept."""
        known = self.passes | {self.own}
        with self.path.open("rb") as file:
            file.seek(self._entry(start))
            owners = [file.read(_ENTRY.size)[:_ID] for _ in range(start, stop)]
        return sum(owner not in known for owner in owners)

    def confirm(self) -> None:
        """Let later passes read what this one wrote."""
        at = _PASSES + _ID * len(_confirmed(self.path))
        if at + _ID <= _HEADER:
            with self.path.open("r+b", buffering=0) as file:
                file.seek(at)
                file.write(self.own)

    def _entry(self, at: int) -> int:
        return _HEADER + _ENTRY.size * at

    def _slot(self, at: int) -> int:
        return self._entry(self.count) + _bytes(self.shape) * at


@dataclass(frozen=True)
class Pass:
    """One pass over the images of a set; stays in the process that began it.

    Attributes:
        kept: the pictures. sources: the images; content: their hash as the pass began.
        start, stop: its first image, and the one after its last. writes: whether pictures are
            missing. say: see `PictureCache`.
    """

    kept: Kept
    sources: Sources
    content: str
    start: int
    stop: int
    writes: bool
    say: Callable[[str], None]

    def end(self) -> None:
        """Called after the last image: what was written may be read from now on."""
        if not self.writes:
            return
        try:
            if not self._unchanged():
                return
            if lost := self.kept.missing(self.start, self.stop):
                self.say(
                    f"note: {lost} decoded images could not be written to {self.kept.path} (is the "
                    "disk full?); later rows decode them again."
                )
            self.kept.confirm()
        except OSError as error:
            self.say(f"note: decoded images are not kept in {self.kept.path}: {error.strerror}.")

    def _unchanged(self) -> bool:
        """Whether the images are those that they were; where not, the job itself says so."""
        try:
            return self.sources.content() == self.content
        except DataError:
            return False


def _there(path: Path, head: bytes, size: int) -> bool:
    """Whether a file is there that begins so, and has this size."""
    try:
        with path.open("rb") as file:
            return file.read(len(head)) == head and os.fstat(file.fileno()).st_size == size
    except FileNotFoundError:
        return False


def _confirmed(path: Path) -> list[bytes]:
    """Ids of the passes that are confirmed."""
    with path.open("rb") as file:
        cells = file.read(_HEADER)[_PASSES:]
    found = [cells[at : at + _ID] for at in range(0, len(cells), _ID)]
    return found[: found.index(_NOBODY)] if _NOBODY in found else found


def _bytes(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


@cache
def _decoder() -> list[str]:
    """What decodes here: packages, their libraries, the machine's kind, and our own code."""
    packages = [f"{name} {version(name)}" for name in ("pillow", "torchvision", "timm", "numpy")]
    codecs = [f"{name} {features.version(name)}" for name in features.get_supported()]
    here = Path(__file__)
    code = [hashlib.sha256(here.with_name(name).read_bytes()).hexdigest() for name in _CODE]
    return [platform.machine(), *packages, *codecs, *code]
