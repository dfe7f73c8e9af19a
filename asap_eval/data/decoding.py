"""Decoding of pictures, wherever their bytes come from: whole, in RGB, upright where asked."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from asap_eval.errors import DataError
from asap_eval.files.archive import AnyPath

EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".qoi", ".avif", ".heic",
    ".heif", ".hif", ".jxl",
)  # fmt: skip
"""Endings of pictures. Those that this Pillow cannot decode are samples all the same: they fail,
and are listed."""

_TURNED = (5, 6, 7, 8)
"""Values of the orientation tag that swap width and height."""
_WHITE_IS_ZERO, _PHOTOMETRIC, _BITS = 0, 262, 258
"""Of TIFF: a photometric interpretation, its tag, and that of bits per sample."""


@contextlib.contextmanager
def whole_images_only() -> Iterator[None]:
    """Other libraries switch this on for the whole process; half an image is a failure here."""
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
    try:
        with whole_images_only(), Image.open(io.BytesIO(content)) as image:
            image.load()
            if upright:
                ImageOps.exif_transpose(image, in_place=True)
            return _eight_bits(image).convert("RGB")
    except (MemoryError, DataError):
        raise
    except UnidentifiedImageError as error:  # its text holds a memory address
        raise DataError("it is not an image that Pillow can decode") from error
    except Exception as error:  # decoders of damaged files raise many kinds
        raise DataError(str(error).strip().split("\n")[0] or type(error).__name__) from error


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
    """Deep grey by its high byte, as Pillow reads deep colour; others as they are."""
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image) >> (_depth(image) - 8)
    return Image.fromarray(values.astype(np.uint8))


def _depth(image: Image.Image) -> int:
    """Bits of grey per pixel; converted by Pillow, all that exceeds 8 of them would be white."""
    tags = getattr(image, "tag_v2", {})  # of TIFF alone
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO:
        return int(tags.get(_BITS, (16,))[0])
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # Pillow scales both to 16 bits
        return 16
    raise DataError(
        f"its pixels are of Pillow's mode {image.mode}, and the {image.format} file does not say "
        "which value is white: save it with 8 or 16 bits a channel, black as 0"
    )
