"""Short clips made with PyAV: frames that say their number, and shapes that move."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disc", "disc fast", "square", "square fast", "bar", "ring")


def numbered(count: int, size: tuple[int, int] = (64, 48)) -> list[Image.Image]:
    """At most 40 grey frames, whose level is 6 x their number + 8: `number_of` reads it."""
    return [Image.new("RGB", size, (6 * at + 8,) * 3) for at in range(count)]


def number_of(image: Image.Image) -> int:
    """Which of the `numbered` frames a decoded one is."""
    return round((float(np.asarray(image, dtype=np.float64).mean()) - 8) / 6)


def write(
    path: Path,
    frames: Sequence[Image.Image],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """A file of frames at 25 a second, or shown at ``times`` (milliseconds)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=25, options=options or {"crf": "10"})
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = pixels
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for at, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image)
            if times is not None:
                frame.pts, frame.time_base = times[at], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def sound(path: Path, codec: str = "pcm_s16le") -> Path:
    """A second of a tone, without pictures."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=8000, layout="mono")
        tone = (np.sin(np.arange(8000) / 8) * 9000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def turn(path: Path) -> Path:
    """Set the display matrix of an mp4 to a quarter turn, as telephones do."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    one, perspective = 1 << 16, 1 << 30
    content[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, perspective)
    path.write_bytes(content)
    return path


def moving(kind: str, seed: int, count: int = 12, size: int = 32) -> list[Image.Image]:
    """A bright shape that crosses a dim frame; place, direction and colour depend on the seed."""
    g = np.random.default_rng(seed)
    start, angle = g.uniform(0.3, 0.7, 2) * size, g.uniform(0, 2 * np.pi)
    speed = (2.0 if kind.endswith("fast") else 0.5) * np.array([np.cos(angle), np.sin(angle)])
    colour = tuple(int(c) for c in g.integers(150, 255, 3))
    radius = size / 6
    frames = []
    for at in range(count):
        frame = Image.new("RGB", (size, size), (int(g.integers(20, 40)),) * 3)
        x, y = (start + speed * at) % size
        draw, box = ImageDraw.Draw(frame), (x - radius, y - radius, x + radius, y + radius)
        if kind.startswith("disc"):
            draw.ellipse(box, fill=colour)
        elif kind.startswith("square"):
            draw.rectangle(box, fill=colour)
        elif kind == "bar":
            draw.rectangle((0, y - 2, size, y + 2), fill=colour)
        else:
            draw.ellipse(box, outline=colour, width=2)
        frames.append(frame)
    return frames


def folder(root: Path, each: int, classes: Iterable[str] = CLASSES, seed: int = 0) -> Path:
    """``each`` clips of moving shapes in one folder per class."""
    for place, kind in enumerate(classes):
        for number in range(each):
            frames = moving(kind, seed + 1000 * place + number)
            write(root / kind.replace(" ", "_") / f"{number:03d}.mp4", frames)
    return root
