"""Labelled images: every kind of place, order, failures, batches."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageFile
from torch import Tensor

from asap_eval.data.images import ImageBatch, ImageSet, image_batches, open_images
from asap_eval.errors import BadValueError, DataError, UnknownNameError

WNIDS = {"n01443537": 1, "n02085620": 151, "n15075141": 999}
"""Three ImageNet ids and their places among the 1000."""


def picture(number: int) -> Image.Image:
    return Image.effect_noise((20 + number % 3, 16), 60).convert("RGB")


def encoded(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture(number).save(file, kind)
    return file.getvalue()


def folder_of(root: Path, classes: Any, each: int = 4) -> Path:
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(each):
            (root / name / f"{number}.png").write_bytes(encoded(number))
    return root


def wnids(data: Path | str, **options: Any) -> ImageSet:
    return open_images(str(data), classes=1000, labels="wnid", **options)


def transform(image: Image.Image) -> Tensor:
    """A stand-in for timm's: ``[3, 8, 8]``."""
    data = torch.tensor(list(image.resize((8, 8)).tobytes()), dtype=torch.float32)
    return data.view(8, 8, 3).permute(2, 0, 1)


# Class folders


def test_a_label_is_the_place_of_the_id_among_the_1000(tmp_path: Path) -> None:
    images = wnids(folder_of(tmp_path, WNIDS))
    assert len(images) == 12
    assert images.ids == sorted(images.ids)
    assert [(i.split("/")[0], label) for i, label in zip(images.ids, images.labels, strict=True)] \
        == [(name, place) for name, place in WNIDS.items() for _ in range(4)]  # fmt: skip


@pytest.mark.parametrize("val", ["val", "validation"])
def test_an_imagenet_tree(val: str, tmp_path: Path) -> None:
    folder_of(tmp_path / val, WNIDS)
    folder_of(tmp_path / "train", ["n01440764"])
    images = wnids(tmp_path)
    assert len(images) == 12
    assert images.ids[0] == f"{val}/n01443537/0.png"
    assert set(images.labels) == set(WNIDS.values())


def test_plain_class_folders(tmp_path: Path) -> None:
    folder_of(tmp_path, ["b", "a", "10", "9"])
    images = open_images(str(tmp_path), classes=4, labels="folders")
    assert dict(zip((i.split("/")[0] for i in images.ids), images.labels, strict=True)) == {
        "10": 0, "9": 1, "a": 2, "b": 3,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"4 class folders \(10, 9, a, b\) and the model 5"):
        open_images(str(tmp_path), classes=5, labels="folders")


def test_hidden_and_other_files_are_no_samples_and_deeper_folders_are(tmp_path: Path) -> None:
    folder_of(tmp_path, WNIDS)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("x")
    inside = tmp_path / "n01443537"
    (inside / "._0.png").write_bytes(b"x")
    (inside / ".thumbs").mkdir()
    (inside / ".thumbs" / "0.png").write_bytes(b"x")
    (inside / "boxes.txt").write_text("x")
    (inside / "more").mkdir()
    (inside / "more" / "A.JPEG").write_bytes(encoded(0, "JPEG"))
    images = wnids(tmp_path)
    assert len(images) == 13
    assert "n01443537/more/A.JPEG" in images.ids


def _nothing(root: Path) -> None:
    shutil.rmtree(root)


def _empty(root: Path) -> None:
    pass


def _empty_classes(root: Path) -> None:
    (root / "n01443537").mkdir()


def _unknown_class(root: Path) -> None:
    folder_of(root, ["n01443537", "n99999999"])


def _loose_images(root: Path) -> None:
    folder_of(root, WNIDS)
    (root / "x.jpg").write_bytes(encoded(0, "JPEG"))


def _flat_val(root: Path) -> None:
    (root / "val").mkdir()
    (root / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(encoded(0, "JPEG"))


def _val_twice(root: Path) -> None:
    for name in ("val", "validation"):
        folder_of(root / name, WNIDS)


def _only_files(root: Path) -> None:
    (root / "labels.csv").write_text("x")


def _only_train(root: Path) -> None:
    folder_of(root / "train", WNIDS)


def _bare_shards(root: Path) -> None:
    (root / "0.tar").write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_nothing, "does not exist. Give a folder"),
        (_empty, "is empty. Class folders with images"),
        (_empty_classes, "no image in its 1 class folders"),
        (_unknown_class, r"class 'n99999999' is not one of the 1000"),
        (_loose_images, r"x.jpg and 0 more images lie in .* one folder per class"),
        (_flat_val, r"ILSVRC2012_val_00000001.JPEG and 0 more images lie in val/"),
        (_val_twice, "has both val and validation. Give one: data="),
        (_only_files, "holds no folders, only files such as labels.csv"),
        (_only_train, "class 'train' is not one of the 1000"),
        (_bare_shards, "holds shards: use data=wds/"),
    ],
)
def test_folders_that_cannot_be_used(
    make: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    root = tmp_path / "d"
    root.mkdir()
    make(root)
    with pytest.raises(DataError, match=says):
        wnids(root)


def test_a_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(0))
    with pytest.raises(DataError, match=r"is a file. Give the folder"):
        wnids(tmp_path / "x.png")


# Which images


def test_limit_takes_the_first_and_spread_takes_all_over(tmp_path: Path) -> None:
    folder_of(tmp_path, WNIDS)
    whole = wnids(tmp_path)
    assert wnids(tmp_path, limit=5).ids == whole.ids[:5]
    assert wnids(tmp_path, limit=12, sample="spread").ids == whole.ids
    spread = wnids(tmp_path, limit=5, sample="spread")
    assert spread.ids == [whole.ids[at] for at in (0, 2, 4, 7, 9)]
    assert set(spread.labels) == set(WNIDS.values())


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one(limit: int, tmp_path: Path) -> None:
    with pytest.raises(BadValueError, match=f"limit={limit}: give a number of images >= 1"):
        wnids(tmp_path, limit=limit)


def test_limit_above_what_is_there_and_other_bad_values(tmp_path: Path) -> None:
    folder_of(tmp_path, WNIDS)
    with pytest.raises(BadValueError, match=r"limit=13, but .* has 12 images"):
        wnids(tmp_path, limit=13)
    with pytest.raises(UnknownNameError, match="Did you mean spread"):
        wnids(tmp_path, sample="spred")
    with pytest.raises(BadValueError, match="no classifier"):
        open_images(str(tmp_path), classes=0, labels="none")
    images = wnids(tmp_path)
    for options in ({"batch_size": 0}, {"batch_size": 1, "workers": -1},
                    {"batch_size": 1, "start": 13}):  # fmt: skip
        with pytest.raises(BadValueError):
            image_batches(images, transform, **options)


def test_the_digest_sees_ids_order_and_labels(tmp_path: Path) -> None:
    folder_of(tmp_path, WNIDS)
    digest = wnids(tmp_path).digest
    assert digest == wnids(tmp_path).digest
    assert digest != wnids(tmp_path, limit=11).digest
    plain = open_images(str(tmp_path), classes=3, labels="folders")
    assert plain.ids == wnids(tmp_path).ids
    assert plain.digest != digest


def test_calibration_images_come_after_the_evaluated_ones(tmp_path: Path) -> None:
    whole = wnids(folder_of(tmp_path, WNIDS))
    subset, disjoint = wnids(tmp_path, limit=5).calibration(3)
    assert (subset.ids, disjoint) == (whole.ids[5:8], True)
    few, disjoint = wnids(tmp_path, limit=10).calibration(8)
    assert (few.ids, disjoint) == (whole.ids[10:], True)
    same, disjoint = whole.calibration(3)
    assert (same.ids, disjoint) == ([whole.ids[at] for at in (0, 4, 8)], False)
    spread = wnids(tmp_path, limit=6, sample="spread")
    between, disjoint = spread.calibration(3)
    assert disjoint
    assert len(between) == 3
    assert not set(between.ids) & set(spread.ids)
    with pytest.raises(BadValueError, match="0 calibration images"):
        whole.calibration(0)


# Failures


def _truncated(file: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(whole, "JPEG")
    file.write_bytes(whole.getvalue()[:-400])


def _no_image(file: Path) -> None:
    file.write_text("not an image")


def _zero_bytes(file: Path) -> None:
    file.write_bytes(b"")


def _dangling(file: Path) -> None:
    file.symlink_to(file.with_name("gone.jpg"))


def _broken_png(file: Path) -> None:
    content = bytearray(encoded(0))
    content[40:60] = b"\0" * 20
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncated, "truncated"),
        (_no_image, "it is not an image"),
        (_zero_bytes, "the file is empty"),
        (_dangling, "No such file"),
        (_broken_png, ""),
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_an_unreadable_image_is_listed_and_stays(
    damage: Callable[[Path], None],
    says: str,
    lenient: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where another library made PIL accept half images."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    folder_of(tmp_path, WNIDS)
    damage(tmp_path / "n01443537" / "1a.jpg")
    images = wnids(tmp_path)
    assert len(images) == 13
    with pytest.raises(DataError, match=r"n01443537/1a.jpg cannot be read"):
        images.load(2)
    batch = next(image_batches(images, transform, 4))
    assert (batch.indices, batch.ids[2]) == ([0, 1, 2, 3], "n01443537/1a.jpg")
    assert list(batch.failures) == [2]
    assert says in batch.failures[2]
    assert "0x" not in batch.failures[2], "a memory address would differ from run to run"
    assert batch.pixels.shape == (3, 3, 8, 8)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def test_a_batch_of_failures_only(tmp_path: Path) -> None:
    folder_of(tmp_path, WNIDS)
    for file in (tmp_path / "n01443537").iterdir():
        file.write_bytes(b"x")
    first, *rest = image_batches(wnids(tmp_path), transform, 4)
    assert len(first.pixels) == 0
    assert len(first.failures) == 4
    assert [len(batch.pixels) for batch in rest] == [4, 4]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_kind_of_picture_becomes_rgb(mode: str, tmp_path: Path) -> None:
    folder_of(tmp_path, WNIDS, each=1)
    kind = "jpg" if mode == "CMYK" else "png"
    source = Image.new("I;16", (9, 9)) if mode == "I;16" else picture(0).convert(mode)
    source.save(tmp_path / "n01443537" / f"0a.{kind}")
    image = wnids(tmp_path).load(1)
    assert image.mode == "RGB"
    assert image.size == source.size


# Batches


def _same(first: list[ImageBatch], second: list[ImageBatch]) -> bool:
    return len(first) == len(second) and all(
        (a.indices, a.ids, a.labels, a.failures) == (b.indices, b.ids, b.labels, b.failures)
        and torch.equal(a.pixels, b.pixels)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int, tmp_path: Path) -> None:
    folder_of(tmp_path, WNIDS)
    (tmp_path / "n02085620" / "2.png").write_bytes(b"x")
    images = wnids(tmp_path)
    alone = list(image_batches(images, transform, 5))
    assert [batch.indices for batch in alone] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert [list(batch.failures) for batch in alone] == [[], [6], []]
    assert _same(alone, list(image_batches(images, transform, 5, workers=workers)))


def test_a_run_resumes_at_an_image(tmp_path: Path) -> None:
    folder_of(tmp_path, WNIDS)
    images = wnids(tmp_path)
    whole = list(image_batches(images, transform, 5))
    assert _same(whole[1:], list(image_batches(images, transform, 5, start=5)))
    assert list(image_batches(images, transform, 5, start=12)) == []


def test_batches_leave_the_generator_alone(tmp_path: Path) -> None:
    images = wnids(folder_of(tmp_path, WNIDS))
    before = torch.random.get_rng_state()
    list(image_batches(images, transform, 5))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_few_files_stay_open(tmp_path: Path) -> None:
    """120 images where only 16 more files may be open."""
    import resource

    images = wnids(folder_of(tmp_path, WNIDS, each=40))
    now = max(int(name) for name in os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (now + 17, hard))
    try:
        batches = list(image_batches(images, transform, 20))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sum(len(batch.pixels) for batch in batches) == 120


# Hugging Face data sets

ORDER = [2, 0, 1, 1]
"""Class of each stored image, an index into the names."""


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    datasets = pytest.importorskip("datasets", reason="the extra [vlm] is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(names: list[str] | None, labels: list[Any], bad: int | None = None) -> Any:
        content = [{"bytes": encoded(at), "path": None} for at in range(len(labels))]
        if bad is not None:
            content[bad] = {"bytes": content[bad]["bytes"][:60], "path": None}
        kind = datasets.ClassLabel(names=names) if names else datasets.Value(
            "string" if isinstance(labels[0], str) else "int64"
        )  # fmt: skip
        features = datasets.Features({"image": datasets.Image(decode=False), "label": kind})
        made = datasets.Dataset.from_dict({"image": content, "label": labels}, features=features)
        return made.cast_column("image", datasets.Image())

    return make


SHUFFLED = ["n15075141", "n01443537", "n02085620"]


def test_a_parquet_folder_or_file(dataset: Callable[..., Any], tmp_path: Path) -> None:
    made = dataset(SHUFFLED, ORDER, bad=1)
    folder = tmp_path / "Parquet"
    folder.mkdir()
    made.select([0, 1]).to_parquet(folder / "validation-0.parquet")
    made.select([2, 3]).to_parquet(folder / "validation-1.parquet")
    for data in (str(folder), f"hfds/{folder}"):
        images = wnids(data)
        assert images.ids == ["0", "1", "2", "3"]
        assert images.labels == [WNIDS[SHUFFLED[at]] for at in ORDER]
        batches = list(image_batches(images, transform, 3, workers=1))
        assert [list(batch.failures) for batch in batches] == [[1], []]
        assert images.load(3).size == picture(3).size
    assert len(wnids(folder / "validation-1.parquet")) == 2
    assert wnids(folder, limit=2, sample="spread").ids == ["0", "2"]


def test_a_saved_data_set_and_its_splits(dataset: Callable[..., Any], tmp_path: Path) -> None:
    import datasets

    made = dataset(SHUFFLED, ORDER)
    made.save_to_disk(tmp_path / "One")
    both = datasets.DatasetDict({"validation": made, "test": made.select([1])})
    both.save_to_disk(tmp_path / "Two")
    assert len(wnids(f"hfds/{tmp_path}/One")) == 4
    assert len(wnids(f"hfds/{tmp_path}/Two")) == 4
    assert len(wnids(f"hfds/{tmp_path}/Two@test")) == 1
    with pytest.raises(DataError, match=r"cannot be opened .*split after @"):
        wnids(f"hfds/{tmp_path}/Two@nothing")


def test_labels_of_a_data_set(dataset: Callable[..., Any], tmp_path: Path) -> None:
    def saved(names: list[str] | None, labels: list[Any]) -> str:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        dataset(names, labels).save_to_disk(place)
        return f"hfds/{place}"

    words = ["tench", "goldfish", "shark"]
    assert open_images(saved(words, ORDER), classes=3, labels="folders").labels == ORDER
    with pytest.raises(DataError, match=r"has 3 classes .*tench.* and the model 1000"):
        wnids(saved(words, ORDER))
    assert wnids(saved(None, [5, 999])).labels == [5, 999]
    assert wnids(saved(None, ["n01443537", "n15075141"])).labels == [1, 999]
    with pytest.raises(DataError, match="image 1 has label 1000"):
        wnids(saved(None, [5, 1000]))
    with pytest.raises(DataError, match="image 0 has label -1"):
        wnids(saved(None, [-1, 3]))
    with pytest.raises(DataError, match="image 0 has label -1"):
        wnids(saved(SHUFFLED, [-1, 1]))
    with pytest.raises(DataError, match="'n00000000' is not one of"):
        wnids(saved(None, ["n00000000"]))
    named = dataset(None, [1]).rename_column("image", "photo")
    named.save_to_disk(tmp_path / "named")
    with pytest.raises(DataError, match="has columns photo, label; its image column"):
        wnids(f"hfds/{tmp_path}/named")
    double = dataset(None, [1]).add_column("cls", [2])
    double.save_to_disk(tmp_path / "double")
    with pytest.raises(DataError, match="has the columns label and cls, and each may be its label"):
        wnids(f"hfds/{tmp_path}/double")


def test_a_damaged_parquet_file(dataset: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        wnids(tmp_path / "x.parquet")


# WebDataset shards


def shard(file: Path, samples: list[tuple[str, bytes | None, str | None]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for key, image, label in samples:
            for kind, content in (("png", image), ("cls", label and label.encode())):
                if content is not None:
                    info = tarfile.TarInfo(f"{key}.{kind}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return file


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    root = tmp_path / "Shards"
    shard(root / "val-0.tar", [("a/x", encoded(0), "5"), ("a/y", encoded(1)[:50], "999")])
    shard(root / "val-1.tar", [("b/x", encoded(2), " 0\n"), ("b/y", None, "7")])
    return root


def test_shards(shards: Path) -> None:
    """Folder, pattern and single shard; a damaged or absent image keeps its place."""
    for data in (f"wds/{shards}", f"wds/{shards}/val-{{0..1}}.tar"):
        images = wnids(data)
        assert images.ids == ["0", "1", "2", "3"]
        assert images.labels == [5, 999, 0, 7]
        assert images.load(2).size == picture(2).size
        alone = list(image_batches(images, transform, 3))
        assert [list(batch.failures) for batch in alone] == [[1], [3]]
        assert alone[1].failures[3] == "3 cannot be read: the sample has no image file"
        assert _same(alone, list(image_batches(images, transform, 3, workers=2)))
    assert wnids(f"wds/{shards}/val-1.tar").labels == [0, 7]
    assert wnids(f"wds/{shards}", limit=2, sample="spread").labels == [5, 0]


def test_shards_with_timms_info_file(shards: Path) -> None:
    def split(name: str, files: list[str]) -> dict[str, Any]:
        return {"name": name, "num_samples": 2, "filenames": files, "shard_lengths": [2]}

    info = {"splits": {"validation": split("validation", ["val-1.tar"]),
                       "test": split("test", ["val-0.tar"])}}  # fmt: skip
    (shards / "_info.json").write_text(json.dumps(info))
    assert wnids(f"wds/{shards}").labels == [0, 7]
    assert wnids(f"wds/{shards}@test").labels == [5, 999]
    with pytest.raises(DataError, match=r"split nothing not found.*Name a split"):
        wnids(f"wds/{shards}@nothing")


def test_remote_shards_are_fetched_once(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    address = f"wds/{shards.as_uri()}/val-{{0..1}}.tar"
    assert wnids(address).labels == [5, 999, 0, 7]
    assert len(list((tmp_path / "hub" / "asap_eval_shards").iterdir())) == 2
    shutil.rmtree(shards)
    assert wnids(address).labels == [5, 999, 0, 7]
    with pytest.raises(DataError, match=r"val-9.tar could not be fetched"):
        wnids(f"wds/{shards.as_uri()}/val-9.tar")


def test_shards_that_cannot_be_used(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing does not exist"):
        wnids(f"wds/{tmp_path}/nothing")
    with pytest.raises(DataError, match=r"shard .*val-2.tar does not exist"):
        wnids(f"wds/{shards}/val-{{0..2}}.tar")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"there is no .tar file"):
        wnids(f"wds/{tmp_path}/bare")
    for number, (label, says) in enumerate(
        [(None, "it has no .cls file"), ("cat", "its .cls reads 'cat'"), ("1000", "label 1000")]
    ):
        file = shard(tmp_path / f"{number}.tar", [("x", encoded(0), label)])
        with pytest.raises(DataError, match=f"sample x.*{says}"):
            wnids(f"wds/{file}")
    with pytest.raises(DataError, match="hold no sample"):
        wnids(f"wds/{shard(tmp_path / 'empty.tar', [])}")
    cut = tmp_path / "cut.tar"
    cut.write_bytes((shards / "val-0.tar").read_bytes()[:700])
    with pytest.raises(DataError, match=r"cut.tar cannot be read"):
        wnids(f"wds/{cut}")
