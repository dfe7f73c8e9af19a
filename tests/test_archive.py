"""Folders in a .zip read as folders of the disk do; what cannot be read so is refused."""

from __future__ import annotations

import importlib
import pickle
import re
import stat
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import test_images
from PIL import Image
from project import ROOT
from test_images import WNIDS, encoded, folder_of, transform, wnids
from test_saliency import photographs

from asap_eval.bench.keepmaps import LooseStore
from asap_eval.cli.crops import crop_maps
from asap_eval.data.images import image_batches
from asap_eval.data.masks import MaskStore
from asap_eval.data.questions.pictures import open_pictures
from asap_eval.errors import DataError
from asap_eval.files import fingerprint
from asap_eval.files.archive import path_of
from asap_eval.files.fingerprint import content_of
from asap_eval.paths import PACKAGE

EXAMPLE = PACKAGE / "example" / "digits.zip"


def zipped(folder: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """``<folder>.zip`` of all that a folder holds, empty folders too."""
    out = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(out, "w", method) as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    return out


def archive_of(out: Path, names: list[str], content: bytes = b"x") -> Path:
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is: `ZipInfo` would put it right
            archive.writestr(info, content)
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders with a damaged image, deeper folders, hidden files and others."""
    root = folder_of(tmp_path / "d" / "val", WNIDS).parent
    inside = root / "val" / "n01443537"
    (root / "README.md").write_text("x")
    (inside / "._0.png").write_bytes(b"x")
    (inside / "boxes.txt").write_text("x")
    for name in (".thumbs", "more"):
        (inside / name).mkdir()
        (inside / name / "A.JPEG").write_bytes(encoded(0, "JPEG"))
    (root / "val" / "n02085620" / "2.png").write_bytes(encoded(2)[:60])
    return root


# Class folders


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_is_the_folder_that_it_was_made_of(method: int, folder: Path) -> None:
    loose, packed = wnids(folder), wnids(zipped(folder, method))
    assert (packed.ids, packed.labels, packed.digest) == (loose.ids, loose.labels, loose.digest)
    assert packed.content() == loose.content()
    assert [n.replace("d.zip", "d") for n in packed.notes] == list(loose.notes) != []
    alone = list(image_batches(loose, transform, 5))
    assert [list(batch.failures) for batch in alone] == [[], [7], []]
    for workers in (0, 2):
        assert test_images._same(alone, list(image_batches(packed, transform, 5, workers)))


@pytest.mark.parametrize("place", ["val", "val/"])
def test_an_address_goes_on_inside(place: str, folder: Path) -> None:
    images = wnids(f"{zipped(folder)}/{place}")
    assert images.ids == wnids(folder / "val").ids
    assert images.ids[0] == "n01443537/0.png"
    with pytest.raises(DataError, match=r"d\.zip/nothing does not exist\. Give a folder"):
        wnids(folder.with_name("d.zip") / "nothing")
    with pytest.raises(DataError, match=r"is a file\. Give the folder"):
        wnids(folder.with_name("d.zip") / "val" / "n01443537" / "0.png")


@pytest.mark.parametrize(
    "make",
    [
        test_images._empty,
        test_images._empty_classes,
        test_images._unknown_class,
        test_images._loose_images,
        test_images._flat_val,
        test_images._val_twice,
        test_images._only_files,
        test_images._only_train,
    ],
)
def test_errors_are_those_of_the_folder(make: Callable[[Path], None], tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    make(root)
    with pytest.raises(DataError) as loose:
        wnids(root)
    with pytest.raises(DataError) as packed:
        wnids(zipped(root))
    said = re.sub(r"/d\b|\bd/", lambda found: found[0].replace("d", "d.zip"), str(loose.value))
    assert str(packed.value) == said


def test_an_archive_of_one_folder_says_its_address(tmp_path: Path) -> None:
    folder_of(tmp_path / "d" / "digits", WNIDS)
    archive = zipped(tmp_path / "d")
    with pytest.raises(DataError, match=r"'digits' is not one .* data=\S*/d.zip/digits takes"):
        wnids(archive)
    assert wnids(f"{archive}/digits").labels == wnids(tmp_path / "d" / "digits").labels


def test_what_macos_adds_is_passed_over(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", WNIDS)
    (root / ".DS_Store").write_bytes(b"x")
    expected = wnids(root)
    for name in WNIDS:
        (root / "__MACOSX" / name).mkdir(parents=True)
        (root / "__MACOSX" / name / "._0.png").write_bytes(b"x")
    archive = zipped(root)
    assert wnids(archive).ids == expected.ids == LooseStore(str(archive)).ids


def test_folders_need_no_entries_and_names_may_begin_with_a_dot(tmp_path: Path) -> None:
    names = ["./", "./n01443537/more/0.png", "n01443537/0.png"]
    archive = archive_of(tmp_path / "a.ZIP", names)
    assert wnids(archive).ids == ["n01443537/0.png", "n01443537/more/0.png"]


def test_a_folder_may_be_called_so(tmp_path: Path) -> None:
    assert len(wnids(folder_of(tmp_path / "d.zip", WNIDS))) == 12


# Archives that are refused


def _patched(archive: Path, central: int, value: bytes) -> Path:
    """An archive with other bytes in its list, in the entry of the last file."""
    content = bytearray(archive.read_bytes())
    at = content.rindex(b"PK\x01\x02") + central
    content[at : at + len(value)] = value
    archive.write_bytes(content)
    return archive


def _link(path: Path) -> None:
    info = zipfile.ZipInfo("n01443537/0.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "../n02085620/0.png")


def _bzip2(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("n01443537/0.png", "x")


def _of(*names: str) -> Callable[[Path], object]:
    return lambda path: archive_of(path, list(names))


def _with(central: int, value: bytes) -> Callable[[Path], object]:
    return lambda path: _patched(archive_of(path, ["n01443537/0.png"]), central, value)


def _cut(path: Path) -> None:
    archive_of(path, ["n01443537/0.png"])
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_of("n01443537/0.png", "../x.png"), r"'\.\./x\.png', which is no path inside"),
        (_of("n01443537/../../x.png"), "which is no path inside"),
        (_of("/etc/x.png"), "which is no path inside"),
        (_of("n01443537\\0.png"), "which is no path inside"),
        (_of("n01443537/0.png", "n01443537/./0.png"), r"n01443537/0\.png more than once"),
        (_of("n01443537", "n01443537/0.png"), "n01443537 as a file and as a folder"),
        (_with(8, b"\1"), r"0\.png is encrypted"),
        (_with(20, b"\xff\xff\xff\x7f"), "lies outside the archive"),
        (_bzip2, r"packed by method 12\. .* store \(0\) or deflate"),
        (_link, r"0\.png is a link"),
        (_cut, r"x\.zip cannot be read: .*not a zip file"),
        (lambda path: path.write_bytes(b""), r"x\.zip cannot be read"),
    ],
)
def test_archives_that_cannot_be_used(
    make: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    make(tmp_path / "x.zip")
    for opened in (wnids, MaskStore, LooseStore):
        with pytest.raises(DataError, match=f"^Archive .*{says}"):
            opened(str(tmp_path / "x.zip"))


# Damage


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(("at", "says"), [(0, "damaged before it"), (60, "damaged|checksum")])
def test_a_damaged_entry_is_one_failure(method: int, at: int, says: str, tmp_path: Path) -> None:
    archive = zipped(folder_of(tmp_path / "d", WNIDS), method)
    before = wnids(archive).content()
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        begin = opened.getinfo("n02085620/1.png").header_offset + at
    content[begin : begin + 20] = bytes(20)
    archive.write_bytes(content)
    images = wnids(archive)
    (batch,) = image_batches(images, transform, 12)
    assert list(batch.failures) == [5]
    assert re.search(f"n02085620/1.png cannot be read: .*({says})", batch.failures[5])
    assert len(batch.pixels) == 11
    assert images.content() != before


def test_an_archive_that_is_gone_is_a_failure_of_every_image(tmp_path: Path) -> None:
    archive = zipped(folder_of(tmp_path / "d", WNIDS))
    images = wnids(archive)
    archive.unlink()
    (batch,) = image_batches(images, transform, 12)
    assert len(batch.failures) == 12
    assert "No such file" in batch.failures[0]


# Content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("whole", [0, fingerprint.WHOLE])
def test_content_is_that_of_loose_files(
    method: int, whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE", whole)
    root = tmp_path / "d"
    root.mkdir()
    for number, size in enumerate((0, 9, fingerprint.BLOCK * fingerprint.BLOCKS + 7, 3 << 20)):
        (root / f"{number}.png").write_bytes(bytes(at % 251 for at in range(size)))
    loose = [root / f"{number}.png" for number in range(5)]  # the last is absent
    packed = [path_of(f"{zipped(root, method)}/{path.name}") for path in loose]
    assert content_of(packed) == content_of(loose)
    assert content_of(packed[:1]) != content_of(packed)


def test_another_archive_under_its_name_is_another_content(tmp_path: Path) -> None:
    names = ["n01443537/0.png"]
    before = wnids(archive_of(tmp_path / "x.zip", names, b"one")).content()
    assert wnids(archive_of(tmp_path / "x.zip", names, b"two")).content() != before
    assert wnids(archive_of(tmp_path / "x.zip", names, b"one")).content() == before


# Whoever reads folders


def test_masks_lie_in_archives(tmp_path: Path) -> None:
    loose = MaskStore(str(photographs(tmp_path / "d", [(40, 30), (32, 32)])))
    packed = MaskStore(str(zipped(tmp_path / "d")))
    assert packed.ids == loose.ids == ["images/0000.png", "images/0001.png"]
    assert packed.content([0, 1]) == loose.content([0, 1])
    assert [packed.mask(at).tobytes() for at in (0, 1)] == [
        loose.mask(at).tobytes() for at in (0, 1)
    ]
    (tmp_path / "d" / "masks" / "0001.png").write_bytes(encoded(0))
    with pytest.raises(DataError, match=r"0001\.png 32x32, its mask 20x16"):
        MaskStore(str(zipped(tmp_path / "d")))
    with pytest.raises(DataError, match=r"d\.zip/images/images No such file"):
        MaskStore(str(tmp_path / "d.zip" / "images"))


def test_pictures_without_labels_lie_in_archives(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "d", ["a", "a/b"], each=2)
    (root / "flat.png").write_bytes(encoded(0))
    archive = zipped(root)
    for place in ("", "/a"):
        loose, packed = LooseStore(f"{root}{place}"), LooseStore(f"{archive}{place}")
        assert packed.ids == loose.ids
        assert packed.content([0, 1]) == loose.content([0, 1])
        assert [packed.read(at) for at in (0, 1)] == [loose.read(at) for at in (0, 1)]
    asked, others = (
        open_pictures(str(data), "Hi", limit=None, sample="first", new_tokens=None)
        for data in (archive, root)
    )
    assert asked.ids == others.ids
    assert asked.content() == others.content()


def test_a_picture_inside_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    Image.new("RGB", (60, 40), (250, 20, 20)).save(tmp_path / "d" / "a.png")
    archive = zipped(tmp_path / "d")
    (loose,) = crop_maps(tmp_path / "d" / "a.png", "llava_tiny", "random", k=0.25)
    (packed,) = crop_maps(path_of(f"{archive}/a.png"), "llava_tiny", "random", k=0.25)
    assert packed.image.tobytes() == loose.image.tobytes()
    with pytest.raises(DataError, match=r"d\.zip/b\.png cannot be read as a picture"):
        crop_maps(path_of(f"{archive}/b.png"), "llava_tiny", "random", k=0.25)


def test_threads_and_copies_of_a_set_read_the_same(tmp_path: Path) -> None:
    folder_of(tmp_path / "d", WNIDS, each=30)
    loose, packed = wnids(tmp_path / "d"), wnids(zipped(tmp_path / "d"))
    expected = list(map(loose.store.read, loose.places))
    again = pickle.loads(pickle.dumps(packed))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(packed.store.read, packed.places)) == expected
        assert list(pool.map(again.store.read, again.places)) == expected


# The bundled example


def test_the_example_is_written_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    with zipfile.ZipFile(EXAMPLE) as archive:
        files = {name: archive.read(name) for name in reversed(archive.namelist())}
    assert len([name for name in files if re.fullmatch(r"images/\d/\d{3}\.png", name)]) == 540
    assert {n.replace("images", "masks") for n in files} == {n for n in files if n[0] == "m"}
    importlib.import_module("digits_task").write_archive(files, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == EXAMPLE.read_bytes()
