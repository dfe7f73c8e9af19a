"""Which class of the data is which of the model's: by name where both have names, else said."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from timm.models import create_model

from asap_eval.cli import main
from asap_eval.data.address import address_parts, open_store
from asap_eval.data.classes import Classes, labelled, numbered
from asap_eval.data.images import open_images
from asap_eval.errors import BadValueError, DataError, WeightsError
from asap_eval.files.archive import path_of
from asap_eval.models import ModelSpec, load_model
from asap_eval.models.class_names import given_names
from asap_eval.paths import PACKAGE
from asap_eval.record import read_record
from asap_eval.report.layouts.overview import overview

NAMES = ("cat", "dog", "old_crow")
DIGITS = path_of(str(PACKAGE / "example" / "digits.zip" / "images"))


def of_names(names: list[str], classes: Classes) -> list[int]:
    return numbered(names, classes, "data=x", what="classes", order="stored").numbers


def named(names: tuple[str, ...] | None, count: int = 3) -> Classes:
    return Classes(count, "folders", names)


# Names and numbers


def test_names_decide_whatever_their_order() -> None:
    model = named(NAMES)
    found = numbered(["old crow", "cat", "dog"], model, "x", what="classes", order="stored")
    assert (found.numbers, found.note) == ([2, 0, 1], None)
    assert of_names(["dog"], model) == [1], "some of the classes are enough"
    assert labelled([0, 1, 1], ["dog", "cat"], model, "x").numbers == [1, 0, 0]
    texts = labelled(["dog", "cat", "dog"], None, model, "x")
    assert (texts.numbers, texts.note) == ([1, 0, 1], None)


def test_a_name_that_the_model_has_not_is_refused() -> None:
    says = r"data=x has 3 classes \(cat, dog, fox\) and the model 3: class 'fox' is not one of the "
    with pytest.raises(
        DataError, match=says + r"model's 3 \(cat, dog, old_crow\).*model\.classes="
    ):
        of_names(["cat", "dog", "fox"], named(NAMES))
    with pytest.raises(DataError, match="class 'fox'"):
        labelled(["fox"], None, named(NAMES), "x")


def test_order_decides_only_where_a_side_has_no_names_and_is_said() -> None:
    nameless = named(None)
    found = labelled([2, 0], ["dog", "cat", "fox"], nameless, "data=x")
    assert found.numbers == [2, 0]
    assert found.note is not None
    assert "data=x: the model does not name its classes" in found.note
    assert "in stored order (dog = 0, cat = 1, fox = 2)" in found.note
    texts = labelled(["dog", "cat", "fox", "cat"], None, nameless, "x")
    assert texts.numbers == [1, 0, 2, 0]
    assert "sorted order (cat = 0, dog = 1, fox = 2)" in str(texts.note)
    for values in ([2, 0, 1], ["2", "0", "1"]):
        numbers = labelled(values, None, named(NAMES), "x")
        assert numbers.numbers == [2, 0, 1]
        assert "numbers without names" in str(numbers.note)
    mere = labelled([2, 0], ["0", "1", "2"], named(NAMES), "x")
    assert mere.numbers == [2, 0]
    assert "mere numbers" in str(mere.note)
    with pytest.raises(DataError, match=r"has 2 classes \(cat, dog\) and the model 3"):
        of_names(["cat", "dog"], nameless)
    with pytest.raises(DataError, match="names and others that are none"):
        labelled(["cat", None], None, nameless, "x")


def test_one_unknown_name_does_not_turn_the_others_into_numbers() -> None:
    model = named((*"987654321", "zero"), 10)
    with pytest.raises(DataError, match="class '0' is not one of the model's 10"):
        of_names(list("0123456789"), model)
    words = named(("a", "b", "c"))
    found = numbered(["0", "1", "2"], words, "x", what="classes", order="stored")
    assert found.numbers == [0, 1, 2]
    assert "mere numbers" in str(found.note)
    assert "model.classes" not in str(found.note)


@pytest.mark.parametrize("model", [Classes(1000, "wnid"), named(None, 12)], ids=["wnid", "none"])
def test_folders_called_by_numbers_are_those_classes(model: Classes, tmp_path: Path) -> None:
    """ImageNet-V2's folders are: sorted as text, 10 comes before 2."""
    for number in range(model.count):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a.png").touch()
    store = open_store(str(tmp_path), model)
    assert [int(name.split("/")[0]) for name in store.ids] == store.labels
    assert store.ids[2] == "10/a.png"
    assert "taken in numeric order (0 = 0, 1 = 1, 10 = 10," in store.notes[0]


def test_numbers_of_some_classes_are_no_classes_of_imagenet() -> None:
    """Twelve folders of one's own, called by numbers, are not ImageNet's first twelve classes."""
    for names in ([*map(str, range(999)), "1000"], ["0"] * 1000):
        with pytest.raises(DataError, match="class '0' is not one of the 1000 ImageNet ids"):
            of_names(names, Classes(1000, "wnid"))


@pytest.mark.parametrize(
    "names",
    [sorted(map(str, range(12))), [f"{n:02}" for n in range(10)], ["cats", "hounds"]],
    ids=["numbers", "digits", "names"],
)
def test_own_classes_with_a_model_of_imagenet_say_the_ways(names: list[str]) -> None:
    with pytest.raises(DataError, match="none of which the model knows") as caught:
        of_names(names, Classes(1000, "wnid"))
    for way in (f"model.num_classes={len(names)} weights=", "ids or names", "bench=keepmaps"):
        assert way in str(caught.value)
    own = numbered(names, named(None, len(names)), "x", what="folders", order="sorted")
    if names[0].isdecimal():
        assert own.numbers == [int(name) for name in names]
    else:
        assert own.numbers == [0, 1]
    assert ("ImageFolder has 10 before 2" in str(own.note)) == (len(names) == 12)


def test_splits_beside_each_other_are_no_classes(tmp_path: Path) -> None:
    for folder in ("test/cat", "train/cat"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").touch()
    with pytest.raises(DataError, match=r"folders hold folders: data=.*/test takes"):
        open_store(str(tmp_path), Classes(1000, "wnid"))


@pytest.mark.parametrize("classes", [True, 5])
def test_names_that_are_no_list_are_refused(classes: Any) -> None:
    with pytest.raises(BadValueError, match=f"model.classes={classes}: give a text file"):
        load_model(ModelSpec("test_vit", "test_vit", classes=classes), weights="random")


def test_a_file_of_names_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    assert given_names(str(tmp_path / "names.txt")) == ("cat", "dog")


def test_a_kind_behind_the_split_is_told_its_place() -> None:
    assert address_parts("x/val-0.tar:png@val") == ("x/val-0.tar", "png", "val", True)
    assert address_parts("x/y@test[1:5]") == ("x/y", None, "test[1:5]", True)
    with pytest.raises(DataError, match=r"the split comes last: x/y:png@val\."):
        address_parts("x/y@val:png")


def test_numbers_that_are_names_are_names() -> None:
    """The bundled digits: what is called 7 is 7, wherever it stands."""
    digits = named(tuple("9876543210"), 10)
    assert of_names(list("0123456789"), digits) == list(range(9, -1, -1))
    assert labelled(["7", "9"], None, digits, "x").numbers == [2, 0]


def test_imagenets_classes_by_their_names_in_wordnet() -> None:
    info = ImageNetInfo()
    ids = info.label_names()
    lemmas = [info.label_name_to_description(wnid) for wnid in ids]
    imagenet = Classes(1000, "wnid")
    assert of_names(["goldfish", "Tench", "great_white_shark", ids[999]], imagenet) == [
        1,
        0,
        2,
        999,
    ]
    assert of_names(lemmas[5:50][::-1], imagenet) == list(range(5, 50))[::-1]
    # "crane" is two of them: such a list says its order by the 997 others.
    whole = numbered(lemmas, imagenet, "data=x", what="classes", order="stored")
    assert whole.numbers == list(range(1000))
    assert "of 1000 classes are called as in WordNet" in str(whole.note)
    assert "crane = 134" in str(whole.note)
    for wrong in ([*lemmas[1:], lemmas[0]], ["crane", *lemmas[:134], *lemmas[135:]]):
        with pytest.raises(DataError, match="class 'crane' is not one of the 1000"):
            of_names(wrong, imagenet)
    with pytest.raises(DataError, match=r"has 1000 classes .* class 'klass 0' is not one"):
        of_names([f"klass {at}" for at in range(1000)], imagenet)


# What a model's classes are called


def test_names_given_as_a_list_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("cat\n dog\n\nold_crow\n")
    spec = {"name": "test_vit", "timm": "test_vit", "kwargs": {"num_classes": 3}}
    for classes in (list(NAMES), str(file)):
        loaded = load_model(ModelSpec(**spec, classes=classes), weights="random")
        assert (loaded.class_names, loaded.labels, loaded.classes) == (NAMES, "folders", 3)
        assert loaded.params["classes"] == list(NAMES)
        again = load_model(ModelSpec("test_vit", **loaded.params), weights="random")
        assert again.class_names == NAMES
    for classes, says in (
        (["cat", "dog"], "names 2 classes, 2 of them different, and the model has 3"),
        (["cat", "dog", "cat"], "names 3 classes, 2 of them different"),
        (["cat", "dog", True], "holds True, which is no name"),
        ("nothing.txt", r"model\.classes=nothing\.txt cannot be read"),
    ):
        with pytest.raises(BadValueError, match=says):
            load_model(ModelSpec(**spec, classes=classes), weights="random")


def test_names_that_come_with_a_checkpoint(tmp_path: Path) -> None:
    state = create_model("test_vit", num_classes=3).state_dict()
    save_file(state, tmp_path / "a.safetensors", {"classes": json.dumps(NAMES)})
    torch.save({"model": state, "class_names": list(NAMES)}, tmp_path / "a.pth")
    numbers = {"dog": 1, "cat": 0, "old_crow": 2}
    torch.save({"model": state, "class_to_idx": numbers}, tmp_path / "b.pth")
    torch.save(state, tmp_path / "bare.pth")
    torch.save({"model": state, "classes": 3}, tmp_path / "c.pth")
    spec = ModelSpec("test_vit", "test_vit", kwargs={"num_classes": 3})
    for name in ("a.safetensors", "a.pth", "b.pth"):
        loaded = load_model(spec, weights=tmp_path / name)
        assert (loaded.class_names, loaded.labels) == (NAMES, "folders")
    save_file(state, tmp_path / "prose.safetensors", {"classes": "as in the paper"})
    for name in ("bare.pth", "prose.safetensors"):
        assert load_model(spec, weights=tmp_path / name).labels == "none"
    with pytest.raises(WeightsError, match=r"c\.pth says its classes .*model\.classes="):
        load_model(spec, weights=tmp_path / "c.pth")


def test_a_checkpoint_of_imagenets_ids_in_another_order_is_refused(tmp_path: Path) -> None:
    ids = ImageNetInfo().label_names()
    state = create_model("test_vit").state_dict()
    save_file(state, tmp_path / "a.safetensors", {"classes": json.dumps(ids[::-1])})
    with pytest.raises(WeightsError, match="class 0 is n15075141, not n01440764"):
        load_model("test_vit", weights=tmp_path / "a.safetensors")
    folders = ModelSpec("test_vit", "test_vit", "folders")
    assert load_model(folders, weights=tmp_path / "a.safetensors").class_names == tuple(ids[::-1])


def test_every_image_model_takes_the_key() -> None:
    from omegaconf import OmegaConf

    from asap_eval.cli.groups import subkeys
    from asap_eval.paths import conf_dir

    for file in (conf_dir() / "model").glob("*.yaml"):
        if OmegaConf.load(file).get("family", "image") == "image":
            assert "classes" in subkeys("model", [file.stem]), file
    assert "classes" in subkeys("model", ["timm"])


# Whole runs


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Twenty bundled digits as class folders, parquet files with their names in another order, as
    texts, and as bare numbers."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("digits")
    files = [sorted((DIGITS / str(digit)).iterdir())[at] for digit in range(10) for at in (0, 1)]
    content = [{"bytes": file.read_bytes(), "path": None} for file in files]
    digit = [at for at in range(10) for _ in (0, 1)]
    shuffled = list("7130954826")

    def parquet(name: str, labels: list[Any], kind: Any) -> str:
        features = datasets.Features({"image": datasets.Image(), "label": kind})
        made = datasets.Dataset.from_dict({"image": content, "label": labels}, features=features)
        made.to_parquet(root / f"{name}.parquet")
        return str(root / f"{name}.parquet")

    kind = datasets.ClassLabel(names=shuffled)
    return {
        "shuffled": parquet("shuffled", [shuffled.index(str(d)) for d in digit], kind),
        "texts": parquet("texts", [str(d) for d in digit], datasets.Value("string")),
        "numbers": parquet("numbers", digit, datasets.Value("int64")),
    }


@pytest.mark.parametrize("kind", ["shuffled", "texts", "numbers"])
def test_a_data_set_in_another_order_scores_as_its_folders(
    kind: str, digits: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundled model reads 19 of these 20 digits or more, however their classes are stored."""
    given = ["model=digits_vit", f"data={digits[kind]}", f"results={tmp_path}"]
    assert main(given) == 0
    taken = capsys.readouterr()
    (file,) = tmp_path.glob("*.json")
    record = read_record(file)
    assert record.metrics is not None
    assert record.metrics.top1 >= 95
    notes = record.provenance.data["notes"]
    assert len(notes) == (kind == "numbers")
    for note in notes:  # said while it runs, and below the table
        assert f"note: {note}" in taken.err.replace("\n", " ")
        assert note in overview([record])[0].notes()


def test_shards_name_their_classes_or_say_that_they_do_not(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")

    def shard(name: str, *labels: str) -> str:
        with tarfile.open(tmp_path / name, "w") as tar:
            for at, label in enumerate(labels):
                for kind, content in (("png", b"x"), ("cls", label.encode())):
                    info = tarfile.TarInfo(f"{at}.{kind}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return f"wds/{tmp_path / name}"

    given: dict[str, Any] = {"classes": 3, "labels": "folders", "names": NAMES}
    named = open_images(shard("a.tar", "dog", "cat", "old crow"), **given)
    assert (list(named.labels), list(named.notes)) == ([1, 0, 2], [])
    numbers = open_images(shard("b.tar", "1", "0", "2"), **given)
    assert numbers.labels == [1, 0, 2]
    assert "numbers without names" in numbers.notes[0]
    digits = open_images(shard("d.tar", "1", "0"), **(given | {"names": ("2", "1", "0")}))
    assert (digits.labels, len(digits.notes)) == ([1, 0], 1), "a number is a number"
    with pytest.raises(DataError, match=r"its \.cls reads 'fox'.*name of one of the model's"):
        open_images(shard("c.tar", "fox"), **given)


def test_files_that_are_no_images_are_counted(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    for name in ("cat/a.svg", "cat/more", "dog/.hidden", "dog/b.svg"):
        (tmp_path / name).write_bytes(b"x")
    images = open_images(str(tmp_path), classes=3, labels="folders", names=NAMES)
    assert len(images) == 3
    (note,) = images.notes
    assert "3 files are left out, no images by their ending (2 .svg, 1 without ending)" in note
