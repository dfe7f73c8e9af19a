"""Pictures as they are meant: upright beside a mask or a person, grey that is not white, no file
passed over in silence."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from timm.data import create_transform

from asap_eval.bench.bench import build_bench
from asap_eval.cli.crops import crop_maps
from asap_eval.data.decoding import EXTENSIONS, decode, decode_row
from asap_eval.data.images import image_batches, open_images
from asap_eval.data.masks import Coverage, MaskStore
from asap_eval.data.questions.pictures import open_pictures
from asap_eval.errors import DataError
from asap_eval.models import load_model

T = Image.Transpose
STORED = {
    1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE,
    6: T.ROTATE_90, 7: T.TRANSVERSE, 8: T.ROTATE_270,
}  # fmt: skip
"""How a camera stores an upright scene that it tags so."""

SCENE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photographed(orientation: int, scene: Image.Image = SCENE, kind: str = "PNG") -> bytes:
    """A scene as a camera stores it; without loss, but for JPEG."""
    turn, exif = STORED[orientation], Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(scene if turn is None else scene.transpose(turn), kind, exif=exif)


def written(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


# Orientation


def keepmaps(file: Path) -> Image.Image:
    bench, loaded = build_bench("keepmaps"), load_model("test_vit", weights="random")
    return bench.open(str(file.parent), loaded, limit=1, sample="first").load(0)


def calibration_of_keepmaps(file: Path) -> Image.Image:
    bench, loaded = build_bench("keepmaps"), load_model("test_vit", weights="random")
    images = bench.open(str(file.parent), loaded, limit=1, sample="first")
    return images.calibration(1)[0].load(0)


def saliency(file: Path) -> Image.Image:
    written(file.parent / "masks" / "a.png", encoded(Image.new("L", SCENE.size)))
    written(file.parent / "images" / "a.png", file.read_bytes())
    bench, loaded = build_bench("saliency"), load_model("test_vit", weights="random")
    return bench.open(str(file.parent), loaded, limit=1, sample="first").load(0)


def asked(file: Path) -> Image.Image:
    opened = open_pictures(str(file.parent), "Hi", limit=1, sample="first", new_tokens=None)
    return opened.asked[0].documents.picture(0)


def of_a_task(file: Path) -> Image.Image:
    return decode_row({"bytes": file.read_bytes(), "path": None})


@pytest.mark.parametrize("reader", [keepmaps, calibration_of_keepmaps, saliency, asked, of_a_task])
@pytest.mark.parametrize("orientation", STORED)
def test_what_a_person_or_a_mask_sees_is_upright(
    reader: Callable[[Path], Image.Image], orientation: int, tmp_path: Path
) -> None:
    seen = reader(written(tmp_path / "a.png", photographed(orientation)))
    assert (seen.mode, seen.size, seen.tobytes()) == ("RGB", SCENE.size, SCENE.tobytes())


@pytest.mark.parametrize("orientation", [3, 6])
def test_classification_takes_pixels_as_stored_as_timm_does(
    orientation: int, tmp_path: Path
) -> None:
    from timm.data import ImageDataset

    written(tmp_path / "n01443537" / "a.png", photographed(orientation))
    ours = open_images(str(tmp_path), classes=1000, labels="wnid").load(0)
    theirs, _ = ImageDataset(str(tmp_path))[0]
    assert ours.tobytes() == theirs.tobytes()
    assert ours.tobytes() != SCENE.tobytes()


@pytest.mark.parametrize("orientation", STORED)
def test_pictures_of_tasks_are_those_that_lmms_eval_gets(orientation: int) -> None:
    """It reads them through `datasets`, whose decoding has to be followed, whatever it is."""
    datasets = pytest.importorskip("datasets")
    stored = {"bytes": photographed(orientation, kind="JPEG"), "path": None}
    theirs = datasets.Image().decode_example(stored).convert("RGB")
    assert decode_row(stored).tobytes() == theirs.tobytes()


def test_a_row_without_a_picture_says_so(tmp_path: Path) -> None:
    gone = {"bytes": None, "path": str(tmp_path / "gone.png")}
    for stored in (None, b"", [], [None], {"bytes": None, "path": None}, gone):
        with pytest.raises(DataError, match=r"^it has no picture$"):
            decode_row(stored)
    with pytest.raises(DataError, match="its picture cannot be read: Is a directory"):
        decode_row({"bytes": None, "path": str(tmp_path)})


@pytest.mark.parametrize("orientation", [3, 6])
def test_crops_are_upright(orientation: int, tmp_path: Path) -> None:
    scene = SCENE.resize((336, 224), Image.Resampling.NEAREST)
    upright = written(tmp_path / "a.png", encoded(scene))
    turned = written(tmp_path / "b.png", photographed(orientation, scene))
    maps = [crop_maps(file, "llava_tiny", "random", k=0.5) for file in (upright, turned)]
    assert maps[0][0].image.tobytes() == maps[1][0].image.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_mask_lies_on_its_photograph_however_either_is_stored(
    kind: str, orientation: int, tmp_path: Path
) -> None:
    """The photograph is stored as tagged, its mask upright; then the other way round."""
    mask = Image.new("L", (48, 32))
    mask.paste(255, (0, 0, 24, 16))  # the upper left quarter
    transform = create_transform((3, 32, 32), crop_pct=1.0, is_training=False)
    for number, ways in enumerate(((orientation, 1), (1, orientation))):
        data = tmp_path / str(number)
        photo, front = (
            photographed(way, scene, kind)
            for way, scene in zip(ways, (mask.convert("RGB"), mask), strict=True)
        )
        written(data / "images" / f"a.{kind.lower()}", photo)
        written(data / "masks" / f"a.{kind.lower()}", front)
        covered = Coverage(MaskStore(str(data)), [0], transform, (2, 2))(0)
        assert covered.tolist() == [1, 0, 0, 0]


def test_a_mask_of_the_stored_pixels_is_no_mask_of_the_photograph(tmp_path: Path) -> None:
    written(tmp_path / "images" / "a.png", photographed(6))
    written(tmp_path / "masks" / "a.png", encoded(Image.new("L", (32, 48))))
    with pytest.raises(DataError, match=r"a\.png 48x32, its mask 32x48.*EXIF orientation"):
        MaskStore(str(tmp_path))


# Masks that say no foreground


def _palette() -> bytes:
    """As PASCAL VOC stores classes: 1 is a dark red."""
    mask = Image.new("P", (8, 8), 1)
    mask.putpalette([0, 0, 0, 128, 0, 0])
    return encoded(mask)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (_palette(), "it has colours"),
        (encoded(Image.new("L", (8, 8), 1)), "its brightest pixel is 1"),
        (encoded(Image.fromarray(np.full((8, 8), 300, np.uint16))), "its brightest pixel is 1"),
    ],
)
def test_a_mask_of_class_numbers_is_refused(mask: bytes, says: str, tmp_path: Path) -> None:
    written(tmp_path / "images" / "a.png", encoded(Image.new("RGB", (8, 8))))
    written(tmp_path / "masks" / "a.png", mask)
    store = MaskStore(str(tmp_path))
    with pytest.raises(DataError, match=rf"The mask a\.png cannot be read: {says}.*white \(255\)"):
        store.mask(0)


def test_two_masks_of_one_image_are_refused(tmp_path: Path) -> None:
    for name in ("images/a.png", "masks/a.png", "masks/a.bmp"):
        written(tmp_path / name, encoded(Image.new("L", (8, 8))))
    with pytest.raises(DataError, match=r"a\.bmp and a\.png in masks/ are masks of one image"):
        MaskStore(str(tmp_path))


# Modes


def _grey(kind: str, **options: Any) -> bytes:
    return encoded(Image.fromarray(RAMP.astype(np.uint16) * 257), kind, **options)


def _with_alpha(mode: str) -> bytes:
    image = Image.fromarray(RAMP).convert(mode)
    image.putalpha(Image.fromarray(255 - RAMP))
    return encoded(image)


def _palette_with_transparency() -> bytes:
    image = Image.fromarray(RAMP, "L").convert("P")
    return encoded(image, transparency=7)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(RAMP)),
        _grey("PNG"),
        _grey("TIFF"),
        _grey("PPM"),
        encoded(Image.fromarray(RAMP.astype(">u2") * 257), "TIFF"),
        _with_alpha("LA"),
        _with_alpha("RGBA"),
        _palette_with_transparency(),
    ],
)
def test_grey_stays_the_grey_it_is(content: bytes) -> None:
    seen = np.asarray(decode(content, upright=False))
    assert (seen == RAMP[:, :, None]).all()


def test_other_kinds_of_pixels_keep_their_colours() -> None:
    ink = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    assert decode(encoded(ink, "TIFF"), upright=False).getpixel((0, 0)) == (255, 0, 0)
    bits = Image.fromarray(RAMP > 127)
    assert np.asarray(decode(encoded(bits), upright=False))[[0, 15], 0, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("image", "options", "mode"),
    [
        (Image.fromarray(RAMP.astype(np.int32)), {}, "I"),
        (Image.fromarray(RAMP.astype(np.float32)), {}, "F"),
        (Image.fromarray(RAMP.astype(np.uint16)), {"tiffinfo": {262: 0}}, "I;16"),  # white is zero
    ],
)
def test_grey_of_unknown_range_is_refused(
    image: Image.Image, options: dict[str, Any], mode: str
) -> None:
    with pytest.raises(DataError, match=f"mode {mode}, .* save it with 8 or 16 bits"):
        decode(encoded(image, "TIFF", **options), upright=False)


# Endings


def test_every_picture_in_a_class_folder_is_evaluated_or_listed(tmp_path: Path) -> None:
    """Files that Pillow cannot decode (HEIC) fail, are listed and stay in the denominator."""
    folder = tmp_path / "n01443537"
    for name, kind in (("a.gif", "GIF"), ("b.jfif", "JPEG"), ("c.avif", "AVIF"), ("d.JPE", "JPEG")):
        written(folder / name, encoded(SCENE, kind))
    written(folder / "e.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    images = open_images(str(tmp_path), classes=1000, labels="wnid")
    names = ["a.gif", "b.jfif", "c.avif", "d.JPE", "e.heic"]
    assert images.ids == [f"n01443537/{name}" for name in names]
    (batch,) = image_batches(images, lambda image: torch.zeros(3, *image.size), 5)
    assert list(batch.failures) == [4]
    assert "it is not an image that Pillow can decode" in batch.failures[4]


@pytest.mark.parametrize("ending", EXTENSIONS)
def test_one_list_of_endings_serves_every_folder(ending: str, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        written(tmp_path / name / f"a{ending}", b"x")
    assert MaskStore(str(tmp_path)).ids == [f"images/a{ending}"]
    opened = open_pictures(str(tmp_path), "Hi", limit=None, sample="first", new_tokens=None)
    assert len(opened) == 2
    loaded = load_model("test_vit", weights="random")
    found = build_bench("keepmaps").open(str(tmp_path), loaded, limit=None, sample="first")
    assert len(found) == 2
