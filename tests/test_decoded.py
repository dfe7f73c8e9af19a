"""Kept pictures: read only where they are what decoding would give, and never in the way."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pictures import picture_folder
from test_images import _same
from timm.data import create_transform

from asap_eval.data import decoded
from asap_eval.data.decoded import Kept, PictureCache
from asap_eval.data.images import ImageBatch, ImageSet, image_batches, open_images
from asap_eval.errors import UnknownNameError
from asap_eval.record import Job
from asap_eval.runner import run

TRANSFORM = create_transform((3, 32, 32), is_training=False)
SLOT = 3 * 32 * 32


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(decoded, "WORTH", 0)
    return []


@pytest.fixture
def images(tmp_path: Path, said: list[str]) -> ImageSet:
    """Nine pictures, the second unreadable, with a cache."""
    data = picture_folder(tmp_path / "data", each=3)
    sorted(data.rglob("*.png"))[1].write_bytes(b"no picture")
    return opened(tmp_path, said)


def opened(folder: Path, said: list[str]) -> ImageSet:
    found = open_images(str(folder / "data"), classes=1000, labels="wnid")
    return dataclasses.replace(found, cache=PictureCache(folder / "kept", said.append))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Places of the images that are decoded."""
    done: list[int] = []
    load = ImageSet.load
    monkeypatch.setattr(ImageSet, "load", lambda self, at: (done.append(at), load(self, at))[1])
    return done


def batches(images: ImageSet, **options: Any) -> list[ImageBatch]:
    return list(image_batches(images, TRANSFORM, 4, **options))


def plain(images: ImageSet) -> list[ImageBatch]:
    return batches(dataclasses.replace(images, cache=None))


def kept_file(folder: Path) -> Path:
    (found,) = (folder / "kept").iterdir()
    return found


def test_a_second_pass_decodes_nothing(images: ImageSet, loads: list[int], said: list[str]) -> None:
    expected = plain(images)
    loads.clear()
    assert _same(expected, batches(images))
    assert loads == list(range(9))
    loads.clear()
    assert _same(expected, batches(images))
    assert _same(expected[1:], batches(images, start=4))
    assert loads == [1]  # the unreadable one is tried again
    (line,) = said
    assert line.endswith("later rows need not decode them; cache=off keeps none.")


def test_processes_write_and_read(images: ImageSet, loads: list[int]) -> None:
    expected = plain(images)
    assert _same(expected, batches(images, workers=2))
    loads.clear()
    assert _same(expected, batches(images))
    assert loads == [1]
    assert _same(expected, batches(images, workers=1))


def test_an_interrupted_pass_is_not_read(images: ImageSet, loads: list[int]) -> None:
    stopped = image_batches(images, TRANSFORM, 4)
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    loads.clear()
    assert _same(plain(images)[1:], batches(images, start=4))  # resumed
    loads.clear()
    batches(images)
    assert loads == [0, 1, 2, 3]
    loads.clear()
    batches(images)
    assert loads == [1]


def test_images_that_change_are_decoded(
    images: ImageSet, loads: list[int], tmp_path: Path, said: list[str]
) -> None:
    batches(images)
    first, *_, last = sorted((tmp_path / "data").rglob("*.png"))
    shutil.copy(last, first)
    loads.clear()
    again = opened(tmp_path, said)
    assert _same(plain(again), batches(again))
    assert loads == 2 * list(range(9))


def test_images_that_change_on_the_way_are_not_kept(
    images: ImageSet, loads: list[int], tmp_path: Path
) -> None:
    first, *_, last = sorted((tmp_path / "data").rglob("*.png"))
    before = last.read_bytes()
    going = image_batches(images, TRANSFORM, 4)
    next(going)
    shutil.copy(first, last)
    list(going)
    last.write_bytes(before)
    loads.clear()
    assert _same(batches(images), plain(images))
    assert loads[:9] == list(range(9))


def test_other_steps_are_other_pictures(images: ImageSet, loads: list[int]) -> None:
    batches(images)
    loads.clear()
    other = create_transform((3, 32, 32), interpolation="bicubic", is_training=False)
    list(image_batches(images, other, 4))
    turned = dataclasses.replace(images, upright=True)
    batches(turned)
    assert loads == 2 * list(range(9))


@pytest.mark.parametrize("damage", ["turned", "cut", "gone", "foreign"])
def test_a_damaged_file_is_not_read(
    damage: str, images: ImageSet, loads: list[int], tmp_path: Path
) -> None:
    batches(images)
    file = kept_file(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "turned":
        content[-1] ^= 1
    file.write_bytes({"cut": content[:-SLOT], "foreign": b"?" * len(content)}.get(damage, content))
    if damage == "gone":
        file.unlink()
    loads.clear()
    assert _same(batches(images), plain(images))
    assert loads[:-9] == ([1, 8] if damage == "turned" else list(range(9)))


def test_a_file_that_goes_while_it_is_read_is_done_without(
    images: ImageSet, tmp_path: Path
) -> None:
    batches(images)
    expected = plain(images)
    going = image_batches(images, TRANSFORM, 4)
    first = next(going)
    kept_file(tmp_path).unlink()
    assert _same([first, *going], expected)


def test_a_full_disk_is_said_once(
    images: ImageSet, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Kept, at: int, content: Any, *, readable: bool) -> None:
        """As `Kept._put` where nothing can be written."""

    monkeypatch.setattr(Kept, "_put", full)
    assert _same(batches(images), plain(images))
    assert "9 decoded images could not be written" in said[-1]
    assert len(said) == 2


def test_a_folder_that_cannot_be_written_is_said(
    images: ImageSet, said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("a file")
    assert _same(batches(images), plain(images))
    (line,) = said
    assert line.startswith("note: decoded images are not kept in ")


def test_room_is_bounded(
    images: ImageSet, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches(images)
    first = kept_file(tmp_path)
    size = first.stat().st_size
    monkeypatch.setattr(decoded, "LIMIT", size + 1)
    fewer = dataclasses.replace(images, places=range(8))
    batches(fewer)  # the older file makes room
    second = kept_file(tmp_path)
    assert second != first
    monkeypatch.setattr(decoded, "LIMIT", size - 1)
    batches(images)
    assert kept_file(tmp_path) == second
    assert "decoded images are not kept: they would take" in said[-1]
    monkeypatch.setattr(decoded, "LIMIT", 10 * size)
    disk = SimpleNamespace(free=size)
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda path: disk)  # type: ignore[attr-defined]
    batches(images)
    assert kept_file(tmp_path) == second
    assert "they may take a quarter" in said[-1]


def test_few_images_and_other_transforms_are_not_kept(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(image_batches(images, lambda image: TRANSFORM(image), 4))
    monkeypatch.setattr(decoded, "WORTH", 9 * SLOT + 1)
    batches(images)
    assert not (tmp_path / "kept").exists()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "WORTH", 0)
    return tmp_path


def test_a_run_is_the_same_with_and_without(home: Path, loads: list[int]) -> None:
    data = picture_folder(home / "data", each=3)
    job = Job("test_vit", weights="random", data=str(data), batch_size=4, method="random", k=0.5)
    outcomes = {name: run(job, results=home / name, cache=name) for name in ("off", "auto")}
    assert loads == 3 * list(range(9))  # twice without, once with: the unpruned model's row
    one, two = (outcome.path for outcome in outcomes.values())
    assert one.name == two.name
    names = [path.with_suffix(".samples.jsonl") for path in (one, two)]
    assert names[0].read_bytes() == names[1].read_bytes()
    with pytest.raises(UnknownNameError, match="cache"):
        run(job, results=home / "auto", cache="on")
