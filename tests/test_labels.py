"""Labels from a file beside images that lie flat."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from test_images import encoded, folder_of

from asap_eval.data.images import ImageSet, open_images
from asap_eval.data.labels import read_labels
from asap_eval.errors import BadValueError, DataError
from asap_eval.record import Job
from asap_eval.runner.prepare import prepare

FILES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 5)]


def labels(tmp_path: Path, text: str, files: list[str] | None = None) -> list[int | str]:
    path = tmp_path / "labels.txt"
    path.write_text(text)
    return read_labels(path, FILES if files is None else files)


def lines(form: str) -> str:
    """A line for each file; ``{stem}`` and ``{at}`` are its name without ending and its number."""
    named = enumerate(FILES)
    return "".join(form.format(file=name, stem=Path(name).stem, at=at) + "\n" for at, name in named)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (lines("{file} {at}"), [0, 1, 2]),
        (lines("{file},n0144076{at}"), ["n01440760", "n01440761", "n01440762"]),
        (lines("{stem}\t{at} b c"), ["0 b c", "1 b c", "2 b c"]),
        (lines("val/{file} 7") + "val/more.JPEG 3\n", [7, 7, 7]),
        ("65\n970\n230\n809\n516\n57\n0\n", [65, 970, 516]),
        ("great shark\ntench\nx\ny\ngold fish\n", ["great shark", "tench", "gold fish"]),
        (
            "ImageId,PredictionString\n"
            "ILSVRC2012_val_00000005,n03995372 85 1 499 272 \n"
            "ILSVRC2012_val_00000001,n02481823 18 2 274 5 n02481823 1 2 3 4 \n"
            "ILSVRC2012_val_00000002,n01440764 0 0 1 1 \n",
            ["n02481823", "n01440764", "n03995372"],
        ),
    ],
    ids=["space", "comma", "tab", "folder", "numbered", "names in order", "Kaggle"],
)
def test_every_form_is_read(text: str, found: list[int | str], tmp_path: Path) -> None:
    files = [f"val/{name}" for name in FILES] if "val/" in text else FILES
    assert labels(tmp_path, text, files) == found


def test_other_files_are_taken_in_their_order(tmp_path: Path) -> None:
    assert labels(tmp_path, "3\n1\n2\n", ["a.png", "b.png", "c.png"]) == [3, 1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("490\n361\n171\n822\n1000\n", "counts classes from 1, as the challenge's own kit"),
        ("1\n2\n", r"2 lines for 3 images"),
        (f"{FILES[0]} 3\n", r"says nothing of 2 of 3 images: ILSVRC2012_val_00000002"),
        (f"{FILES[0]} 3\n{FILES[0]} 4\n", "two classes: 3 and 4"),
        (f"{FILES[0]} 3\n{FILES[1]}\n{FILES[2]} 3\n", "names no class"),
    ],
)
def test_what_does_not_say_every_class_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        labels(tmp_path, text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels=.*none.txt cannot be read"):
        read_labels(tmp_path / "none.txt", FILES)


@pytest.mark.golden("data/imagenet-val227/val_labels.txt")
def test_the_validation_set_s_own_labels(shared: Path) -> None:
    """Each of 1300 files lies in the folder of the class that its number has in the list."""
    from timm.data import ImageNetInfo

    ids = ImageNetInfo().label_names()
    folder = shared / "data/imagenet-val227"
    places = {file.name: file.parent.name for file in folder.glob("n*/*.JPEG")}
    files = sorted(places)
    found = read_labels(folder / "val_labels.txt", files)
    assert len(files) == 1300
    assert [ids[int(label)] for label in found] == [places[file] for file in files]


# A flat folder or tar as a store


def flat(root: Path) -> Path:
    """Three pictures by ImageNet's names, and two of its lists of their classes beside them."""
    folder = root / "val"
    folder.mkdir()
    for number, name in enumerate(FILES):
        (folder / name).write_bytes(encoded(number, "JPEG"))
    (root / "val.txt").write_text(
        lines("{file} {at}").replace(" 0", " 65").replace(" 1\n", " 970\n")
    )
    (root / "wnids.txt").write_text("n01440764\nn01443537\nn01484850\nn01491361\nn01494475\n")
    return folder


def opened(data: Path, labels_of: Path, **options: Any) -> ImageSet:
    return open_images(str(data), classes=1000, labels="wnid", label_file=str(labels_of), **options)


def test_a_flat_folder_archive_and_tar_are_the_same_images(tmp_path: Path) -> None:
    folder = flat(tmp_path)
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for name in reversed(FILES):
            tar.add(folder / name, name)
    with zipfile.ZipFile(tmp_path / "val.zip", "w") as archive:
        for name in ("val.txt", *(f"val/{name}" for name in FILES)):
            archive.write(tmp_path / name, name)
    inside = tmp_path / "val.zip" / "val.txt"
    places = [(folder, tmp_path / "val.txt"), (tmp_path, tmp_path / "val.txt")]
    places += [(tmp_path / "val.tar", tmp_path / "val.txt"), (tmp_path / "val.zip", inside)]
    for data, said in places:
        images = opened(data, said)
        assert (images.ids, images.labels) == (FILES, [65, 970, 2])
        assert [images.load(at).size for at in range(3)] == [(20, 16), (21, 16), (22, 16)]
        assert f"labels={said}: its labels are numbers without names" in images.notes[0]
    assert opened(folder, tmp_path / "wnids.txt", limit=2).labels == [0, 1]


def test_without_labels_the_usual_file_is_named_and_not_taken(tmp_path: Path) -> None:
    folder = flat(tmp_path)
    says = "2 more images lie in val/ itself.*or give "
    with pytest.raises(DataError, match=rf"{says}labels={tmp_path}/val\.txt, if that says"):
        open_images(str(folder), classes=1000, labels="wnid")
    (tmp_path / "val.txt").unlink()
    with pytest.raises(DataError, match=rf"{says}labels=<file>\. Give a text file with"):
        open_images(str(tmp_path), classes=1000, labels="wnid")


def test_labels_are_for_flat_images(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    said = flat(tmp_path / "flat").parent / "val.txt"
    for data, says in (
        (folder_of(tmp_path / "sorted", ["n01440764"]), "holds folders such as n01440764"),
        ("hfds/x/y", "says its labels itself"),
        (tmp_path / "none", "does not exist"),
    ):
        with pytest.raises(DataError, match=says):
            opened(Path(data), said)
    with pytest.raises(BadValueError, match="bench=keepmaps reads none"):
        prepare(job_of(said.parent, labels=str(said), bench="keepmaps"))
    (said.parent / "high.txt").write_text(lines("{file} {at}000"))
    with pytest.raises(DataError, match="image 1 has label 1000; the classes are 0 to 999"):
        opened(said.parent, said.parent / "high.txt")


def test_the_key_follows_what_the_labels_say(tmp_path: Path) -> None:
    folder = flat(tmp_path)
    said, copy = tmp_path / "val.txt", tmp_path / "copy.txt"
    copy.write_text(said.read_text())
    before = prepare(job_of(folder, labels=str(said)))
    assert before.job.labels == str(said)
    assert prepare(job_of(folder, labels=str(copy))).key == before.key
    copy.write_text(said.read_text().replace(" 65", " 66"))
    assert prepare(job_of(folder, labels=str(copy))).key != before.key


def job_of(data: Path, **changes: Any) -> Job:
    return Job("test_vit", data=str(data), weights="random", **changes)
