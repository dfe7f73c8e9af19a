"""What a shard holds, which shards a split is, and that fetched ones are whole."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_stand_in import PLAIN, Hub
from hub_stand_in import hub as hub  # a fixture
from PIL import Image

from asap_eval.data.images import ImageSet, open_images
from asap_eval.errors import DataError

pytest.importorskip("webdataset", reason="webdataset is not installed")

SIZES = {"jpg": (20, 16), "png": (18, 12), "seg.png": (8, 8)}
"""Of pictures by their kind."""


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    what = "JPEG" if kind.endswith("jpg") else "PNG"
    Image.new("RGB", SIZES.get(kind, (4, 4)), "red").save(file, what)
    return file.getvalue()


def content(name: str) -> bytes:
    kind = name.rpartition("/")[2].partition(".")[2]
    return b"7" if kind == "cls" else encoded(kind)


Change = Callable[[tarfile.TarInfo], None]


def shard(file: Path, names: Sequence[str | tuple[str, Change]]) -> Path:
    """A shard with members in this order; a change makes one a link or something else."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name in names:
            name, change = (name, None) if isinstance(name, str) else name
            info, held = tarfile.TarInfo(name), content(name)
            info.size = len(held)
            if change is not None:
                change(info)
            tar.addfile(info, io.BytesIO(held) if info.isreg() else None)
    return file


def link(target: str, kind: bytes = tarfile.LNKTYPE) -> Change:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, target, 0

    return change


def folder(info: tarfile.TarInfo) -> None:
    info.type, info.size = tarfile.DIRTYPE, 0


def opened(data: Path | str, **how: Any) -> ImageSet:
    return open_images(f"wds/{data}", classes=1000, labels="wnid", **how)


PLAIN_SAMPLE = ("00000.jpg", "00000.cls")


# What a sample's picture is


@pytest.mark.parametrize("beside", ["00000.seg.png", "00000.depth.jpg", "00000.json"])
def test_what_lies_beside_a_picture_is_not_shown(beside: str, tmp_path: Path) -> None:
    for names in ([*PLAIN_SAMPLE, beside], [beside, *PLAIN_SAMPLE]):
        images = opened(shard(tmp_path / "x.tar", names))
        assert (len(images), images.labels) == (1, [7])
        assert images.load(0).size == SIZES["jpg"]


def test_two_pictures_are_refused_until_one_is_named(tmp_path: Path) -> None:
    names = [*PLAIN_SAMPLE, "00000.png", "00000.seg.png", "1.png", "1.cls"]
    file = shard(tmp_path / "x.tar", names)
    with pytest.raises(DataError, match=r"sample 00000 has 2 pictures, .jpg and .png. Name"):
        opened(file)
    assert opened(f"{file}:png").load(0).size == SIZES["png"]
    assert opened(f"{tmp_path}:PNG").load(0).size == SIZES["png"]
    seg = opened(f"{file}:seg.png")
    assert seg.content() != opened(f"{file}:png").content()
    assert seg.load(0).size == SIZES["seg.png"]
    assert len(seg) == 2, "a sample that lacks the picture keeps its place"
    with pytest.raises(DataError, match="the sample has no image file"):
        seg.load(1)
    with pytest.raises(DataError, match=r"no sample of it .* has a .webp file"):
        opened(f"{file}:webp")


def test_dots_in_a_name_end_the_sample_s_name(tmp_path: Path) -> None:
    """`n01.1.jpg` is the file `.1.jpg` of sample `n01`; so is that of its neighbour."""
    file = shard(tmp_path / "x.tar", [f"n01.{n}.{kind}" for n in (1, 2) for kind in ("jpg", "cls")])
    with pytest.raises(DataError, match=r"sample n01 has .1.jpg and .2.jpg, but no picture with"):
        opened(file)


def test_files_that_are_no_samples(tmp_path: Path) -> None:
    names: list[str | tuple[str, Change]] = [
        ("a", folder),
        *("README.md", "LICENSE", "a/notes.txt", "._00000.jpg", "__meta__/x.jpg", "a/.hidden.jpg"),
        *("a/0.jpg", "a/0.cls", "a/0.json", "./1.jpg", "./1.cls"),
    ]
    images = opened(shard(tmp_path / "x.tar", names))
    assert [images.load(at).size for at in range(len(images))] == [SIZES["jpg"]] * 2


def test_links_lead_to_their_targets(tmp_path: Path) -> None:
    names: list[str | tuple[str, Change]] = [
        *("a/0.png", "a/0.cls"),
        ("a/1.png", link("a/0.png")),
        ("a/1.cls", link("0.cls", tarfile.SYMTYPE)),
        ("b/2.png", link("../a/1.png", tarfile.SYMTYPE)),
        ("b/2.cls", link("a/0.cls")),
    ]
    images = opened(shard(tmp_path / "x.tar", names))
    assert images.labels == [7, 7, 7]
    assert [images.load(at).size for at in range(3)] == [SIZES["png"]] * 3


def sparse(info: tarfile.TarInfo) -> None:
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0


UNCLEAR: dict[str, tuple[list[str | tuple[str, Change]], str]] = {
    "one file twice": ([*PLAIN_SAMPLE, "00000.jpg"], "holds 00000.jpg more than once"),
    "one kind twice": ([*PLAIN_SAMPLE, "00000.JPG"], "holds 00000.JPG more than once"),
    "a label twice": ([*PLAIN_SAMPLE, "./00000.cls"], "holds 00000.cls more than once"),
    "no label": (["0.jpg"], "sample 0: it has no .cls file"),
    "neither": ([*PLAIN_SAMPLE, "00000.json", "1.json"], "sample 1 has .json as others have, but"),
    "a link to nowhere": (
        [("0.jpg", link("gone.jpg", tarfile.SYMTYPE)), "0.cls"],
        "0.jpg has no bytes of its own",
    ),
    "a link to itself": (
        [("0.jpg", link("0.jpg", tarfile.SYMTYPE)), "0.cls"],
        "0.jpg has no bytes of its own",
    ),
    "no picture": (["0.cls"], "no sample of it .* has a picture"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_not_clear_is_refused(case: str, tmp_path: Path) -> None:
    names, says = UNCLEAR[case]
    with pytest.raises(DataError, match=says):
        opened(shard(tmp_path / "x.tar", names))


# Whole archives


def members(file: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(file) as tar:
        return tar.getmembers()


def _cut_at_a_member(file: Path) -> bytes:
    return file.read_bytes()[: members(file)[2].offset]


def _cut_in_a_header(file: Path) -> bytes:
    return file.read_bytes()[: members(file)[2].offset + 100]


def _cut_in_a_file(file: Path) -> bytes:
    return file.read_bytes()[: members(file)[2].offset_data + 10]


def _cut_in_the_end(file: Path) -> bytes:
    last = members(file)[-1]
    return file.read_bytes()[: last.offset_data + 512 + 512]


def _header_damaged(file: Path) -> bytes:
    found, at = bytearray(file.read_bytes()), members(file)[2].offset
    found[at : at + 10] = b"\xff" * 10
    return bytes(found)


def _joined(file: Path) -> bytes:
    return file.read_bytes() * 2


@pytest.mark.parametrize(
    "damage",
    [
        *(_cut_at_a_member, _cut_in_a_header, _cut_in_a_file, _cut_in_the_end),
        *(_header_damaged, _joined),
    ],
)
def test_a_shard_that_is_not_whole(damage: Callable[[Path], bytes], tmp_path: Path) -> None:
    """tarfile takes most of these for the end of the archive, and samples are gone."""
    file = shard(tmp_path / "x.tar", [*PLAIN_SAMPLE, "1.jpg", "1.cls"])
    assert len(opened(file)) == 2
    file.write_bytes(damage(file))
    with pytest.raises(DataError, match=r"x.tar cannot be read: .* whole, uncompressed"):
        opened(file)


# Which shards


def split_folder(root: Path, *names: str) -> Path:
    """A shard of one sample for each name; its label says which."""
    for place, name in enumerate(names):
        with tarfile.open(shard(root / name, ["0.jpg"]), "a") as tar:
            label = str(place).encode()
            info = tarfile.TarInfo("0.cls")
            info.size = len(label)
            tar.addfile(info, io.BytesIO(label))
    return root


BOTH = ("imagenet-train-0.tar", "imagenet-train-1.tar", "imagenet-val-0.tar", "imagenet-val-1.tar")


@pytest.mark.parametrize(
    ("names", "split", "labels"),
    [
        (BOTH, "", [2, 3]),
        (BOTH, "@validation", [2, 3]),
        (BOTH, "@val", [2, 3]),
        (BOTH, "@train", [0, 1]),
        (("valid0.tar", "valid_1.tar", "training.tar"), "", [0, 1]),
        (("dev-0.tar", "validation-0.tar"), "", [1]),
        (("dev-0.tar", "val-0.tar"), "@val", [1]),
        (("0.tar", "1.tar"), "", [0, 1]),
        (("test_0.tar", "testdev_0.tar"), "@test", [0]),
    ],
)
def test_a_split_is_in_the_shards_names(
    names: tuple[str, ...], split: str, labels: list[int], tmp_path: Path
) -> None:
    assert opened(f"{split_folder(tmp_path, *names)}{split}").labels == labels


@pytest.mark.parametrize(
    ("names", "address", "says"),
    [
        (BOTH, "@test", "no file says that it is of the split test; there are imagenet-train-0"),
        (("0.tar", "1.tar"), "@validation", "no file says that it is of the split validation"),
        (("train-0.tar", "test-0.tar"), "", "no file says that it is of the split validation"),
        (("train-val-0.tar", "val-0.tar"), "", "train-val-0.tar names more than one split"),
        (("dev-0.tar", "val-0.tar"), "", "val and dev are in the files' names. Give"),
        (BOTH, "/imagenet-val-{0..1}.tar@train", "no file says that it is of the split train"),
        (BOTH, "/imagenet-val-{0,0}.tar", "names a shard more than once"),
    ],
)
def test_a_split_that_no_name_says_is_refused(
    names: tuple[str, ...], address: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=says):
        opened(f"{split_folder(tmp_path, *names)}{address}")


def test_an_index_counts_samples(tmp_path: Path) -> None:
    split_folder(tmp_path, "a.tar", "b.tar")
    split = {"name": "validation", "num_samples": 2, "filenames": ["a.tar", "b.tar"]}
    for lengths, says in (([1, 1], None), ([1, 2], r"b.tar has 1 samples, but its index says 2")):
        index = {"splits": {"validation": {**split, "shard_lengths": lengths}}}
        (tmp_path / "_info.json").write_text(json.dumps(index))
        if says is None:
            assert opened(tmp_path).labels == [0, 1]
        else:
            with pytest.raises(DataError, match=says):
                opened(tmp_path)


# Fetched shards


@pytest.fixture
def served(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A server of one shard, as the hub and as any other."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch-hub"))
    files = {"val-0.tar": shard(tmp_path / "v.tar", [*PLAIN_SAMPLE, "1.jpg", "1.cls"]).read_bytes()}
    hub.files = {"timm/wds": files, PLAIN: files}
    return hub


ADDRESSES = {
    "hub": "{url}/datasets/timm/wds/resolve/main/val-0.tar",
    "hf": "hf://datasets/timm/wds@main/val-0.tar",
    "other": "{url}/plain/val-0.tar",
}


@pytest.mark.parametrize("server", ADDRESSES)
def test_a_shard_cut_in_transit_is_fetched_again(server: str, served: Hub) -> None:
    address = ADDRESSES[server].format(url=served.url)
    whole = served.files[PLAIN]["val-0.tar"]
    served.lies["val-0.tar"] = [whole[:2048]]
    assert len(opened(address)) == 2
    assert len(opened(address)) == 2
    assert served.asked == ["val-0.tar"] * 2, "a whole one is kept"


@pytest.mark.parametrize("server", ADDRESSES)
def test_a_damaged_copy_is_fetched_again(server: str, served: Hub, tmp_path: Path) -> None:
    """One byte of a picture is another: the archive is whole, and so is the file's length."""
    address = ADDRESSES[server].format(url=served.url)
    images = opened(address)
    before = images.load(0).tobytes()
    for file in tmp_path.rglob("*"):
        copy = file.parent != tmp_path and file.is_file() and not file.is_symlink()
        if copy and file.read_bytes() == served.files[PLAIN]["val-0.tar"]:
            held = bytearray(file.read_bytes())
            held[512 + 100] ^= 0xFF
            file.write_bytes(held)
    again = opened(address)
    assert again.load(0).tobytes() == before
    assert served.asked == ["val-0.tar"] * 2


@pytest.mark.parametrize("server", ADDRESSES)
def test_a_server_that_never_sends_it_whole(server: str, served: Hub) -> None:
    address = ADDRESSES[server].format(url=served.url)
    served.lies["val-0.tar"] = [served.files[PLAIN]["val-0.tar"][:2048]] * 20
    with pytest.raises(DataError) as caught:
        opened(address)
    assert "twice" in str(caught.value)
    assert served.url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_with_another_hash_than_the_hub_s(served: Hub) -> None:
    """Of the right length, and an archive in good order."""
    address = ADDRESSES["hub"].format(url=served.url)
    other = bytearray(served.files[PLAIN]["val-0.tar"])
    other[512 + 100] ^= 0xFF
    served.lies["val-0.tar"] = [bytes(other)]
    assert len(opened(address)) == 2
    assert served.asked == ["val-0.tar"] * 2
    served.files["timm/wds"] = {"val-0.tar": bytes(other) + b"\0" * 512}  # the hub has a new one
    served.lies["val-0.tar"] = [bytes(other) + b"\1" + b"\0" * 511] * 2
    with pytest.raises(
        DataError, match=r"val-0.tar came with another hash than the hub's, .*twice"
    ):
        opened(address)


def test_a_bad_archive_of_a_server_says_from_where(served: Hub) -> None:
    bad = served.files[PLAIN]["val-0.tar"][:2048]
    served.files[PLAIN] = {"val-0.tar": bad}
    with pytest.raises(DataError, match=f"It was fetched twice, from {served.url}/plain/val-0.tar"):
        opened(ADDRESSES["other"].format(url=served.url))
    assert served.asked == ["val-0.tar"] * 2


def test_fetched_shards_need_no_network_later(served: Hub, tmp_path: Path) -> None:
    other = ADDRESSES["other"].format(url=served.url)
    opened(other)
    served.status = 503
    assert len(opened(other)) == 2
    shutil.rmtree(tmp_path / "torch-hub")
    with pytest.raises(DataError, match="could not be fetched: HTTP Error 503"):
        opened(other)
