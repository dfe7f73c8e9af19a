"""Rows of data sets: one split of one config, from a stand-in for the hub or from this disk."""

from __future__ import annotations

import io
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import Hub
from hub_stand_in import hub as hub  # a fixture
from huggingface_hub import constants
from PIL import Image

from asap_eval.data.images import ImageSet, open_images
from asap_eval.errors import DataError
from asap_eval.record import Job
from asap_eval.runner import run

datasets = pytest.importorskip("datasets", reason="the extra [data] is not installed")

NAME = "timm/mini"
TRAIN, VAL, TEST = (
    f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")
)


def parquet(labels: Sequence[int], colour: str = "red", path: Path | None = None) -> bytes:
    """A file of pictures of one colour."""
    image = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(image, "PNG")
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": image.getvalue(), "path": None}] * len(labels), "label": list(labels)},
        features=datasets.Features(
            {"image": datasets.Image(decode=False), "label": datasets.Value("int64")}
        ),
    )
    file = io.BytesIO()
    rows.cast_column("image", datasets.Image()).to_parquet(file)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
    return file.getvalue()


def opened(data: Path | str) -> ImageSet:
    return open_images(str(data), classes=1000, labels="wnid")


@pytest.fixture
def mini(hub: Hub) -> Hub:
    hub.files[NAME] = {TRAIN: parquet([1] * 9), VAL: parquet([2, 3]), TEST: parquet([4])}
    return hub


@pytest.mark.parametrize(
    ("split", "files", "labels"),
    [
        ("", [VAL], [2, 3]),
        ("@validation", [VAL], [2, 3]),
        ("@test", [TEST], [4]),
        ("@validation[1:]", [VAL], [3]),
        ("@test+validation", [TEST, VAL], [4, 2, 3]),
    ],
)
def test_the_split_s_files_alone_are_fetched(
    split: str, files: list[str], labels: list[int], mini: Hub
) -> None:
    images = opened(f"hfds/{NAME}{split}")
    assert images.labels == labels
    assert images.load(0).size == (6, 4)
    assert sorted(mini.asked) == sorted(files)
    again = opened(f"hfds/{NAME}{split}")
    assert again.labels == labels
    assert len(mini.asked) == len(files), "what is there is not fetched again"


def test_without_the_hub_the_last_state_is_read(mini: Hub) -> None:
    first = opened(f"hfds/{NAME}")
    commit = mini.commit(NAME)
    mini.files[NAME][VAL] = parquet([5, 6, 7])
    mini.status = 503
    with pytest.warns(UserWarning, match=f"503 .* as fetched before: {NAME}@{commit}"):
        again = opened(f"hfds/{NAME}")
    assert again.labels == first.labels
    assert again.commits == first.commits == {NAME: commit}
    mini.status = None
    new = opened(f"hfds/{NAME}")
    assert new.labels == [5, 6, 7]
    assert new.commits == {NAME: mini.commit(NAME)}
    assert new.content() != first.content()


def test_what_datasets_prepared_serves_without_the_hub(
    mini: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.load_dataset(NAME, split="test")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was asked for needs no word
        images = opened(f"hfds/{NAME}@test")
    assert images.labels == [4]
    assert images.commits == {NAME: mini.commit(NAME)}
    with pytest.raises(DataError, match="no split dev; there are train, validation, test"):
        opened(f"hfds/{NAME}@dev")


def test_a_record_names_the_commit(mini: Hub, tmp_path: Path) -> None:
    job = Job(model="test_vit", weights="random", data=f"hfds/{NAME}")
    record = run(job, results=tmp_path / "results").record
    assert record.provenance.data["commits"] == {NAME: mini.commit(NAME)}
    assert record.metrics is not None
    assert (record.metrics.n, record.metrics.failed) == (2, 0)


CONFIGS = b"""---
configs:
- config_name: en
  data_files: [{split: validation, path: en/v.parquet}, {split: train, path: en/t.parquet}]
- config_name: cn
  data_files: [{split: validation, path: cn/v.parquet}]
---
"""


def test_a_config_is_named_behind_a_colon(hub: Hub) -> None:
    hub.files[NAME] = {
        "README.md": CONFIGS,
        "en/v.parquet": parquet([1]),
        "en/t.parquet": parquet([2]),
        "cn/v.parquet": parquet([3]),
    }
    assert opened(f"hfds/{NAME}:en@validation").labels == [1]
    assert opened(f"hfds/{NAME}:en@train").labels == [2]
    assert opened(f"hfds/{NAME}:cn").labels == [3]
    assert hub.asked[-1] == "cn/v.parquet"
    with pytest.raises(
        DataError, match=rf"has several configs; .* en, cn. Name .*{NAME}:en@<split>"
    ):
        opened(f"hfds/{NAME}")
    with pytest.raises(DataError, match="has no config fr; there are en, cn"):
        opened(f"hfds/{NAME}:fr")
    with pytest.raises(DataError, match="no split train; there are validation"):
        opened(f"hfds/{NAME}:cn@train")


def test_features_of_a_card_hold(hub: Hub) -> None:
    """A card names classes that the file only counts; its count of rows is looked at, too."""
    card = """---
dataset_info:
  features:
  - {name: image, dtype: image}
  - name: label
    dtype: {class_label: {names: {'0': n15075141, '1': n01443537}}}
  splits:
  - {name: validation, num_bytes: 1, num_examples: COUNT}
---
"""
    hub.files[NAME] = {VAL: parquet([0, 1]), "README.md": card.replace("COUNT", "2").encode()}
    assert opened(f"hfds/{NAME}").labels == [999, 1]
    hub.files[NAME]["README.md"] = card.replace("COUNT", "3").encode()
    with pytest.raises(
        DataError, match="of validation hold 2 rows, but the data set's card says 3"
    ):
        opened(f"hfds/{NAME}")


# What was fetched is what the hub has


def test_bytes_with_another_hash_are_fetched_again(mini: Hub) -> None:
    true = mini.files[NAME][VAL]
    other = parquet([8, 9])
    assert len(other) == len(true)
    mini.lies[VAL] = [other]
    assert opened(f"hfds/{NAME}").labels == [2, 3]
    assert mini.asked == [VAL, VAL]


def test_bytes_with_another_hash_twice(mini: Hub) -> None:
    mini.lies[VAL] = [parquet([8, 9])] * 2
    with pytest.raises(DataError) as caught:
        opened(f"hfds/{NAME}")
    said = str(caught.value)
    assert f"{mini.url}/datasets/{NAME}: {VAL} came with another hash than the hub's" in said
    assert "\n" not in said
    assert opened(f"hfds/{NAME}").labels == [2, 3], "the next run asks again"


def test_a_damaged_copy_is_fetched_again(mini: Hub, tmp_path: Path) -> None:
    opened(f"hfds/{NAME}")
    true = mini.files[NAME][VAL]
    copies = [f for f in (tmp_path / "hub-cache").rglob("*") if f.is_file() and not f.is_symlink()]
    (copy,) = [file for file in copies if file.read_bytes() == true]
    copy.write_bytes(parquet([8, 9]))
    shutil.rmtree(tmp_path / "datasets-cache")
    assert opened(f"hfds/{NAME}").labels == [2, 3]
    assert mini.asked == [VAL, VAL]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (429, "429 .too many requests.*Wait some minutes"),
        (500, "500 .internal server error.*The fault is the server's"),
        (401, "401 .unauthorized.*hf auth login"),
    ],
)
def test_the_hub_s_answers_are_told_apart(status: int, says: str, mini: Hub) -> None:
    mini.status = status
    with pytest.raises(DataError, match=says) as caught:
        opened(f"hfds/{NAME}")
    assert f"{mini.url}/datasets/{NAME}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_hub_at_all(mini: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such repository, or it is private"):
        opened("hfds/timm/gone")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DataError, match="the connection is refused"):
        opened(f"hfds/{NAME}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE=1 forbids the network"):
        opened(f"hfds/{NAME}")


# This disk


def _rewrite(file: Path, content: bytes) -> None:
    """New bytes under the same name, with the same time."""
    before = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("address", ["{}/a[1]", "hfds/{}/a"])
def test_a_file_rewritten_under_its_name_is_read_again(
    address: str, tmp_path: Path, hub: Hub
) -> None:
    """Also in a folder whose name would mean another one as a pattern."""
    data = address.format(tmp_path)
    file = Path(data.removeprefix("hfds/")) / "validation-0.parquet"
    parquet([1, 2], "#ff0000", file)
    first = opened(data)
    before = first.content()
    assert before == first.content()
    new = parquet([1, 2], "#fe0000")
    assert len(new) == file.stat().st_size
    _rewrite(file, new)
    again = opened(data)
    assert again.load(0).getpixel((0, 0)) == (254, 0, 0)
    assert again.content() != before


def test_a_folder_of_files_gives_the_split_alone(tmp_path: Path, hub: Hub) -> None:
    data = tmp_path / "mini"
    parquet([1], path=data / "train-0.parquet")
    parquet([2], path=data / "validation-0.parquet")
    for address in (str(data), f"hfds/{data}", f"hfds/{data}@validation"):
        assert opened(address).labels == [2]
    assert opened(f"hfds/{data}@train").labels == [1]
    (data / "validation-0.parquet").unlink()
    with pytest.raises(DataError, match="no file says that it is of the split validation"):
        opened(data)
    with pytest.raises(DataError, match="no split validation; there are train"):
        opened(f"hfds/{data}")


def test_a_saved_split_says_what_it_is(tmp_path: Path, hub: Hub) -> None:
    parquet([1], path=tmp_path / "p" / "test-0.parquet")
    how: dict[str, Any] = {"data_files": {"test": str(tmp_path / "p" / "test-0.parquet")}}
    datasets.load_dataset("parquet", split="test", **how).save_to_disk(tmp_path / "saved")
    assert opened(f"hfds/{tmp_path}/saved@test").labels == [1]
    for address in ("saved", "saved@validation"):
        with pytest.raises(DataError, match=r"it holds the split test. Say hfds/.*saved@test"):
            opened(f"hfds/{tmp_path}/{address}")


# What a record's key sees


def test_rows_of_equal_labels_are_told_apart(hub: Hub, tmp_path: Path) -> None:
    """By config, split and slice: ids, labels and even files may be the same."""
    same = {f"{name}/v.parquet": parquet([1, 1]) for name in ("en", "cn")}
    hub.files[NAME] = {"README.md": CONFIGS, "en/t.parquet": parquet([1, 1]), **same}
    parquet([1, 1], path=tmp_path / "mini" / "validation-0.parquet")
    sets = [
        opened(address)
        for address in (
            f"hfds/{NAME}:en",
            f"hfds/{NAME}:cn",
            f"hfds/{NAME}:en@train",
            f"hfds/{NAME}:en@train[:1]",
            f"hfds/{NAME}:en@train[1:]",
            f"hfds/{tmp_path}/mini@validation[:1]",
            f"hfds/{tmp_path}/mini@validation[1:]",
        )
    ]
    assert len({images.content() for images in sets}) == len(sets)
