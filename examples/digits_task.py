"""The bundled task: one handwritten digit on a large, cluttered, tinted canvas.

Source digits are the 1797 8x8 images of ``sklearn.datasets.load_digits``. They are split by index
(train / validation / test) *before* anything is rendered; clutter is always cut from training
digits, so a test digit is never seen in training, whole or in pieces.

Run as a script to write the bundled held-out set::

    python examples/digits_task.py --write-test-set asap_eval/example/digits.zip
"""

from __future__ import annotations

import argparse
import io
import math
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CANVAS = 80
LEVELS = 16  # grey levels of the composed canvas, each mapped to one colour of the image's ramp
SPLIT_SEED = 20240229
TEST_SEED = 7
N_TEST, N_VAL = 540, 100

_DIGIT_PX = (26.0, 36.0)  # height of the digit's 8x8 frame on the canvas
_FRAGMENTS = (12, 22)  # clutter pieces per image
_FRAGMENT_PX = (7, 11)  # side of a clutter piece
_PAD = 2  # zero border around the 8x8 source, so that strokes are not cut


@dataclass(frozen=True)
class Split:
    """Source digits (``uint8 [n, 8, 8]``, 0..16) and their labels."""

    digits: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Rendered images with what they are made of."""

    images: np.ndarray  #: uint8 [n, S, S, 3]
    masks: np.ndarray  #: bool [n, S, S], the digit's strokes
    labels: np.ndarray  #: int64 [n]
    levels: np.ndarray  #: uint8 [n, S, S], index into ``ramps``
    ramps: np.ndarray  #: uint8 [n, LEVELS, 3]


def load_splits() -> tuple[Split, Split, Split]:
    """Return the disjoint train, validation and test digits (fixed permutation of the indices)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    digits, labels = data.images.astype(np.uint8), data.target.astype(np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    test, val, train = np.split(order, [N_TEST, N_TEST + N_VAL])
    return tuple(Split(digits[i], labels[i]) for i in (train, val, test))  # type: ignore[return-value]


def _stroke(digit: np.ndarray, px: float, angle: float, shear: float) -> np.ndarray:
    """Upscale one 8x8 digit to a smooth, square ``float32`` stroke map in 0..1."""
    size = int(px) + 4
    side = 8 + 2 * _PAD
    source = np.zeros((side, side), np.uint8)
    source[_PAD:-_PAD, _PAD:-_PAD] = digit * 15
    step, cos, sin = 8.0 / px, math.cos(angle), math.sin(angle)
    a, b = step * cos, step * (sin + shear)
    d, e = -step * sin, step * cos
    c, f = side / 2 - (a + b) * size / 2, side / 2 - (d + e) * size / 2
    warped = Image.fromarray(source).transform(
        (size, size), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC
    )
    return np.clip((np.asarray(warped, np.float32) / 240.0 - 0.30) * 2.2, 0.0, 1.0)


def clutter_bank(digits: np.ndarray, rng: np.random.Generator, n: int = 3000) -> list[np.ndarray]:
    """Warp ``n`` random digits: the stroke maps that clutter pieces are cut from."""
    bank = []
    for index in rng.integers(len(digits), size=n):
        px, angle, shear = _pose(rng)
        bank.append(_stroke(digits[index], px, angle, shear))
    return bank


def _pose(rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw a digit's height in pixels, rotation in radians and shear."""
    return rng.uniform(*_DIGIT_PX), rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.15)


def _background(rng: np.random.Generator) -> np.ndarray:
    """Smooth noise plus a few faint lines, ``float32 [S, S]`` in about 0..0.45."""
    grid = rng.integers(0, 256, (5, 5), dtype=np.uint8)
    noise = Image.fromarray(grid).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
    base = np.asarray(noise, np.float32) / 255.0 * rng.uniform(0.15, 0.35)
    lines = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(lines)
    for _ in range(rng.integers(1, 4)):
        ends = rng.integers(-10, CANVAS + 10, 4).tolist()
        draw.line(ends, fill=int(rng.integers(70, 120)), width=int(rng.integers(1, 3)))
    return np.maximum(base, np.asarray(lines, np.float32) / 255.0)


def _ramp(rng: np.random.Generator) -> np.ndarray:
    """A dark-to-light colour ramp through a random middle tint, ``uint8 [LEVELS, 3]``."""
    dark, light = rng.uniform(0, 80, 3), rng.uniform(150, 255, 3)
    middle = (dark + light) / 2 + rng.uniform(-40, 40, 3)
    at = np.linspace(0.0, 1.0, LEVELS)
    columns = [
        np.interp(at, (0.0, 0.5, 1.0), stops) for stops in np.stack([dark, middle, light], 1)
    ]
    return np.clip(np.stack(columns, 1), 0, 255).round().astype(np.uint8)


def _compose(
    digit: np.ndarray, bank: list[np.ndarray], rng: np.random.Generator, amount: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compose one canvas; return its levels and the mask of the digit's strokes."""
    canvas = _background(rng)
    stroke = _stroke(digit, *_pose(rng))
    box = len(stroke)
    top, left = rng.integers(0, CANVAS - box + 1, 2).tolist()

    pieces = round(amount * int(rng.integers(*_FRAGMENTS, endpoint=True)))
    for which, size, gain, y, x, v, u, turn in rng.random((pieces, 8)).tolist():
        side = int(_FRAGMENT_PX[0] + size * (_FRAGMENT_PX[1] + 1 - _FRAGMENT_PX[0]))
        y, x = int(y * (CANVAS - side + 1)), int(x * (CANVAS - side + 1))
        if top - side + 3 < y < top + box - 3 and left - side + 3 < x < left + box - 3:
            continue  # would touch the digit
        donor = bank[int(which * len(bank))]
        v, u = 2 + int(v * (len(donor) - side - 3)), 2 + int(u * (len(donor) - side - 3))
        piece = donor[v : v + side, u : u + side] * (0.75 + 0.25 * gain)
        piece = piece.T if turn < 0.5 else piece[::-1]
        region = canvas[y : y + side, x : x + side]
        np.maximum(region, piece, out=region)

    region = canvas[top : top + box, left : left + box]
    region += (rng.uniform(0.8, 1.0) - region) * stroke
    mask = np.zeros((CANVAS, CANVAS), bool)
    mask[top : top + box, left : left + box] = stroke > 0.4
    return np.clip(canvas * (LEVELS - 1) + 0.5, 0, LEVELS - 1).astype(np.uint8), mask


def render(
    source: Split,
    bank: list[np.ndarray],
    rng: np.random.Generator,
    n: int,
    *,
    each_once: bool = False,
    amount: float = 1.0,
) -> Batch:
    """Render ``n`` images of digits drawn from ``source``, cluttered with pieces cut from ``bank``.

    ``each_once`` takes the digits in order instead of at random; ``amount`` scales the number of
    clutter pieces (1.0 is the task).
    """
    total = len(source.labels)
    picked = np.arange(n) % total if each_once else rng.integers(total, size=n)
    levels = np.empty((n, CANVAS, CANVAS), np.uint8)
    masks = np.empty((n, CANVAS, CANVAS), bool)
    for i, index in enumerate(picked):
        levels[i], masks[i] = _compose(source.digits[index], bank, rng, amount)
    ramps = np.stack([_ramp(rng) for _ in range(n)])
    images = ramps[np.arange(n)[:, None, None], levels]
    return Batch(images, masks, source.labels[picked], levels, ramps)


def test_set() -> Batch:
    """Render the fixed held-out set: every test digit once."""
    train, _, test = load_splits()
    rng = np.random.default_rng(TEST_SEED)
    return render(test, clutter_bank(train.digits, rng), rng, len(test.labels), each_once=True)


def pictures(batch: Batch) -> Iterator[tuple[str, bytes]]:
    """``images/<class>/<nnn>.png`` (16-colour palette, lossless) and 1-bit ``masks/``, as PNG."""
    for i, label in enumerate(batch.labels):
        picture = Image.fromarray(batch.levels[i]).convert("P")
        picture.putpalette(batch.ramps[i].tobytes())
        mask = Image.fromarray(batch.masks[i])
        for folder, image, bits in (("images", picture, {"bits": 4}), ("masks", mask, {})):
            file = io.BytesIO()
            image.save(file, "PNG", optimize=True, **bits)
            yield f"{folder}/{label}/{i:03d}.png", file.getvalue()


def write_archive(files: Mapping[str, bytes], out: Path) -> None:
    """A ``.zip`` whose bytes depend on the files' names and bytes alone; PNGs do not shrink."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name)  # of 1980, the earliest date that a .zip can say
            info.create_system = 3  # Unix, on whatever system this runs
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the bundled held-out test set.")
    parser.add_argument("--write-test-set", type=Path, required=True, metavar="ZIP")
    out = parser.parse_args().write_test_set
    files = dict(pictures(test_set()))
    write_archive(files, out)
    for folder in ("images", "masks"):
        sizes = [len(content) for name, content in files.items() if name.startswith(folder)]
        print(f"{folder}: {len(sizes)} files, {sum(sizes)} bytes")


if __name__ == "__main__":
    main()
