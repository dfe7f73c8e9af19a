"""Decoding of pictures, wherever their bytes come from: whole, in RGB, upright where asked."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from asap_eval.errors import DataError, message, reraised
from asap_eval.files.archive import AnyPath

EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".qoi", ".avif", ".heic",
    ".heif", ".hif", ".jxl",
)  # fmt: skip
"""Endings of pictures. Those that this Pillow cannot decode are samples all the same: they fail,
and are listed."""

Stored = bytes | Mapping[str, Any] | None
"""A picture in a row: its file's bytes, or ``{bytes, path}`` as `datasets` has it."""

_TURNED = (5, 6, 7, 8)
"""Values of the orientation tag that swap width and height."""
_WHITE_IS_ZERO, _PHOTOMETRIC, _BITS = 0, 262, 258
"""Of TIFF: a photometric interpretation, its tag, and that of bits per sample."""


@contextlib.contextmanager
def whole_images_only() -> Iterator[None]:
    """Half an image is a failure here, whatever other libraries allow for the whole process."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def decode(content: bytes, *, upright: bool) -> Image.Image:
    """A picture in RGB, 8 bits each: of several frames the first, without its transparency.

    Args:
        content: its file. upright: turn it as its EXIF orientation says (TIFF's own orientation is
            Pillow's to follow, and always is).

    Raises:
        DataError: it is none, is not whole, or has pixels of unknown range; says why alone.
    """
    if not content:
        raise DataError("the file is empty")
    with (
        reraised(DataError, _why),
        whole_images_only(),
        Image.open(io.BytesIO(content)) as image,
    ):
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        return _eight_bits(image).convert("RGB")


def decode_file(path: AnyPath) -> Image.Image:
    """A picture of the disk or an archive, upright.

    Raises:
        DataError: as `decode`, or it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(str(error)) from error
    return decode(content, upright=True)


def decode_row(stored: Stored | list[Stored]) -> Image.Image:
    """The one picture of a row, upright, as `datasets` itself turns it.

    Raises:
        DataError: there is none or more than one, or it cannot be read or decoded whole.
    """
    if isinstance(stored, list):
        if len(stored) > 1:
            raise DataError(f"it has {len(stored)} pictures; one is allowed")
        stored = stored[0] if stored else None
    try:
        content = bytes_of(stored)
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise DataError(f"its picture cannot be read: {error.strerror}") from error
    if not content:
        raise DataError("it has no picture")
    try:
        return decode(content, upright=True)
    except DataError as error:
        raise DataError(f"its picture cannot be decoded: {error}") from error


def bytes_of(stored: Stored) -> bytes:
    """The file of a picture in a row; empty where the row has none.

    Raises:
        OSError: the row names a file that cannot be read.
    """
    if stored is None or isinstance(stored, bytes):
        return stored or b""
    content, path = stored.get("bytes"), stored.get("path")
    return bytes(content) if content else Path(path).read_bytes() if path else b""


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its ending."""
    return Path(name).suffix.lower() in EXTENSIONS


def _why(error: BaseException) -> str:
    """What Pillow says of a file; not where it names a memory address."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image that Pillow can decode"
    return message(error)


def upright_size(path: AnyPath) -> tuple[int, int]:
    """Width and height of a picture once it is upright; most are not decoded for it.

    Raises:
        Exception: of Pillow's many kinds, where it cannot be read.
    """
    # Not by its path: Pillow would map an uncompressed TIFF into memory, and turn it wrongly.
    with path.open("rb") as file, Image.open(file) as image:
        if image.format == "TIFF":
            image.load()  # turned by Pillow itself, older versions tell the size only then
            return image.size
        turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return (image.height, image.width) if turned else image.size


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of over 8 bits by its high byte, as Pillow reads deep colour; others as they are."""
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image) >> (_depth(image) - 8)
    return Image.fromarray(values.astype(np.uint8))


def _depth(image: Image.Image) -> int:
    """Bits of grey a pixel has. Pillow's own conversion takes all above 255 for white."""
    tags = getattr(image, "tag_v2", {})  # of TIFF alone
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO:
        return int(tags.get(_BITS, (16,))[0])
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # Pillow scales both to 16 bits
        return 16
    raise DataError(
        f"its pixels are of Pillow's mode {image.mode}, and the {image.format} file does not say "
        "which value is white: save it with 8 or 16 bits a channel, black as 0"
    )
