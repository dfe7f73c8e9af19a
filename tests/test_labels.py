"""Labels from a file beside images that lie flat."""

from __future__ import annotations

from pathlib import Path

import pytest

from asap_eval.data.labels import read_labels
from asap_eval.errors import DataError

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
