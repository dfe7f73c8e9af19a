"""A few hundred short clips of shapes that move over a noisy background, in eight classes.

    python examples/moving_shapes.py --out shapes
    asap-eval stage=train model=digits_vit bench=kinetics data=shapes train.epochs=30 train.lr=0.01
    asap-eval experiment=table3 model=digits_vit data=shapes bench.head=<the file it printed>

Every clip has its own place, direction, speed, size, colours and noise, all from its seed; clips of
``val`` share no seed with those of ``train``. Needs the [video] extra.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disc", "square", "triangle", "ring", "cross", "bar", "two discs", "grid")
SIDE, FRAMES, RATE = 96, 24, 12
"""Pixels of a frame's side, frames of a clip, frames a second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=30, help="clips per class (%(default)s)")
    parser.add_argument("--val", type=int, default=15, help="clips per class (%(default)s)")
    options = parser.parse_args()
    for split, each, first in (("train", options.train, 0), ("val", options.val, 1_000_000)):
        for place, kind in enumerate(CLASSES):
            folder = options.out / split / kind.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(each):
                frames = clip(kind, np.random.default_rng(first + 10_000 * place + number))
                write(folder / f"{number:04d}.mp4", frames)
    print(f"{len(CLASSES) * (options.train + options.val)} clips in {options.out}")


def clip(kind: str, g: np.random.Generator) -> list[Image.Image]:
    """The frames of one clip."""
    back, colour = g.integers(20, 110, 3), tuple(int(c) for c in g.integers(140, 255, 3))
    place, angle = g.uniform(0.25, 0.75, 2) * SIDE, g.uniform(0, 2 * math.pi)
    speed = g.uniform(0.5, 3.0) * np.array([math.cos(angle), math.sin(angle)])
    radius, turn = g.uniform(0.14, 0.22) * SIDE, g.uniform(0, 2 * math.pi)
    frames = []
    for _ in range(FRAMES):
        noise = g.normal(back, 12, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
        frame = Image.fromarray(noise)
        _draw(ImageDraw.Draw(frame), kind, *place, radius, turn, colour)
        frames.append(frame)
        place = place + speed
        # Shapes bounce where their middle comes near the border.
        outside = (place < 0.2 * SIDE) | (place > 0.8 * SIDE)
        speed = np.where(outside, np.sign(SIDE / 2 - place) * abs(speed), speed)
    return frames


def _draw(
    draw: ImageDraw.ImageDraw,
    kind: str,
    x: float,
    y: float,
    radius: float,
    turn: float,
    colour: tuple[int, ...],
) -> None:
    """One shape with its middle at ``x, y``."""

    def disc(x: float, y: float, r: float, **how: object) -> None:
        draw.ellipse((x - r, y - r, x + r, y + r), **how)  # type: ignore[arg-type]

    def polygon(corners: int, start: float) -> None:
        angles = [start + 2 * math.pi * at / corners for at in range(corners)]
        points = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
        draw.polygon(points, fill=colour)

    across = radius * math.cos(turn), radius * math.sin(turn)
    width = max(3, int(radius / 3))
    if kind == "disc":
        disc(x, y, radius, fill=colour)
    elif kind == "square":
        polygon(4, turn)
    elif kind == "triangle":
        polygon(3, turn)
    elif kind == "ring":
        disc(x, y, radius, outline=colour, width=width)
    elif kind == "two discs":
        for side in (-1, 1):
            disc(x + side * across[0], y + side * across[1], radius / 2, fill=colour)
    elif kind == "grid":
        for at in (-1.0, -1 / 3, 1 / 3, 1.0):
            low, high, here = -radius, radius, at * radius
            draw.line((x + here, y + low, x + here, y + high), fill=colour, width=2)
            draw.line((x + low, y + here, x + high, y + here), fill=colour, width=2)
    else:  # a bar, and a second one across it
        for dx, dy in [across, (-across[1], across[0])][: 2 if kind == "cross" else 1]:
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=colour, width=width)


def write(path: Path, frames: list[Image.Image]) -> None:
    """One H.264 file."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"crf": "18"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for image in frames:
            out.mux(stream.encode(av.VideoFrame.from_image(image)))
        out.mux(stream.encode(None))


if __name__ == "__main__":
    main()
