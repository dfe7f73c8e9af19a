"""What became of every patch of the frames of a clip: a picture strip, and an animated file."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from asap_eval.errors import BadValueError
from asap_eval.files.placed import placed
from asap_eval.report.pictures.keep_map import KeepMap

MARGIN, LINE = 6, 14
"""Pixels between pictures, and of a line of text."""

ANIMATED = (".gif", ".webp", ".png")
"""Endings of animated files (``.png``: APNG)."""


def strip(maps: Sequence[KeepMap], side: int = 160) -> Image.Image:
    """All frames in a row, and what became of their patches below.

    Args:
        maps: at least one, all of one size. side: height of each picture in pixels.
    """
    panels = [_panel(one, side) for one in maps]
    width, height = panels[0].size
    sheet = Image.new("RGB", (len(panels) * (width + MARGIN) - MARGIN, height), "white")
    for place, panel in enumerate(panels):
        sheet.paste(panel, (place * (width + MARGIN), 0))
    return sheet


def save_strip(maps: Sequence[KeepMap], path: Path, side: int = 160) -> None:
    """Write the strip as a picture."""
    _save(strip(maps, side), path)


def save_animated(maps: Sequence[KeepMap], path: Path, side: int = 160, hold: int = 400) -> None:
    """Write the keep-maps one after the other.

    Args:
        hold: milliseconds each frame is shown.

    Raises:
        BadValueError: a file name whose ending is no animated format.
    """
    if path.suffix.lower() not in ANIMATED:
        raise BadValueError(f"{path} cannot be animated: end it in {' or '.join(ANIMATED)}.")
    first, *rest = (_panel(one, side) for one in maps)
    _save(first, path, save_all=True, append_images=rest, duration=hold, loop=0)


def _save(picture: Image.Image, path: Path, **how: Any) -> None:
    """In the format of the path's ending, which a file that is not yet in place has not."""
    form, content = Image.registered_extensions().get(path.suffix.lower()), BytesIO()
    if form is None:
        raise BadValueError(f"{path}: no picture format ends in '{path.suffix}'. End it in .png.")
    picture.save(content, format=form, **how)
    with placed(path) as part:
        part.write_bytes(content.getvalue())


def _panel(one: KeepMap, side: int) -> Image.Image:
    """Title, frame and keep-map, one below the other."""
    below = one.drawn(side)
    whole = one.image.resize(below.size, Image.Resampling.BICUBIC)
    panel = Image.new("RGB", (below.width, LINE + 2 * side + MARGIN), "white")
    ImageDraw.Draw(panel).text((1, 1), one.title, fill="black")
    panel.paste(whole, (0, LINE))
    panel.paste(below, (0, LINE + side + MARGIN))
    return panel
