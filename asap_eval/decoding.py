"""Decoding of pictures, wherever their bytes come from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from PIL import ImageFile


@contextlib.contextmanager
def whole_images_only() -> Iterator[None]:
    """Other libraries switch this on for the whole process; half an image is a failure here."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
