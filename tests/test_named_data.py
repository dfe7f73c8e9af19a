"""Data by name, and what is taken where none is given: ImageNet, open sets, the example."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import PLAIN, SWITCHES, Hub
from hub_stand_in import hub as hub  # a fixture
from huggingface_hub import constants
from pictures import picture_folder
from test_images import encoded
from torchvision.datasets import Imagenette

from asap_eval.cli import main
from asap_eval.cli.user_config import user_defaults, user_file
from asap_eval.data.images import open_images
from asap_eval.data.named import OPEN, NotFetchedError, address_of, short_name
from asap_eval.errors import BadValueError, DataError
from asap_eval.paths import PACKAGE
from asap_eval.record import Job, read_record
from asap_eval.runner import prepare as preparing
from asap_eval.runner.prepare import Prepared

WAYS = (
    "IMAGENET=<folder of ImageNet> before the command; data=<folder with one folder per class>; or "
    "go online once for data=imagenette"
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without data, network and cache."""
    for name in ("IMAGENET", *SWITCHES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return picture_folder(tmp_path / "ILSVRC" / "val", each=1).parent


def prepared(model: str = "test_vit", **options: Any) -> Prepared:
    imagenet = options.pop("imagenet", None)
    return preparing.prepare(Job(model, weights="random", **options), imagenet=imagenet)


# What is taken where nothing is said


def test_imagenet_is_where_this_machine_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="no folder of ImageNet is known here"):
        prepared(data="imagenet")
    usual = Path("data/imagenet/val")
    usual.parent.mkdir(parents=True)
    usual.symlink_to(folder / "val")
    assert prepared().job.data == str(usual)
    assert prepared(imagenet=str(folder)).job.data == str(folder)
    monkeypatch.setenv("IMAGENET", str(folder / "val"))
    found = prepared(imagenet="elsewhere")
    assert (found.job.data, found.data_name) == (str(folder / "val"), "imagenet")
    assert found.data_said == f"data=imagenet, {folder}/val (IMAGENET)"
    assert prepared(bench="keepmaps").job.data == found.job.data
    named = prepared(data="imagenet")
    assert (named.job.data, named.data_name) == (found.job.data, "imagenet")
    assert named.key == found.key == prepared(data=str(folder / "val")).key
    monkeypatch.setenv("IMAGENET", "nowhere")
    with pytest.raises(DataError, match="IMAGENET=nowhere does not exist"):
        prepared()


def test_offline_one_error_says_three_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=test_vit", "weights=random"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "error: No data is given and none is here: neither IMAGENET nor" in said
    assert said.count("error:") == 1
    assert WAYS in said
    assert main(["model=test_vit", "weights=random", "plan=true"]) == 1
    assert WAYS in " ".join(capsys.readouterr().out.split())


def test_a_plan_fetches_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for data in ([], ["data=imagenette"]):
        assert main(["model=test_vit", "weights=random", "plan=true", *data]) == 1
        out, err = capsys.readouterr()
        assert "missing: data: imagenette (3925 images of 10 of ImageNet's classes, about" in out
        assert "A run fetches it, or give data=<folder>." in out
        assert "Fetching" not in err


def test_other_models_do_not_get_imagenet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGENET", str(folder))
    found = prepared("digits_vit")
    assert (found.job.data, len(found.samples)) == ("example", 540)
    own = {"timm": "test_vit", "labels": "folders", "kwargs": {"num_classes": 3}}
    with pytest.raises(BadValueError, match="data is missing: give a folder"):
        prepared("mine", model_params=own)
    with pytest.raises(BadValueError, match="data is missing: give a folder"):
        prepared(bench="saliency")


def test_a_run_says_which_data_and_so_does_its_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGENET", str(folder))
    assert main(["model=test_vit", "weights=random", "limit=2"]) == 0
    out, err = capsys.readouterr()
    line = f"data=imagenet, {folder} (IMAGENET): 2 images are evaluated. Your own: data=<folder>."
    assert line in err.splitlines()
    assert out.startswith("test_vit · imagenet · imagenet · 2 samples · float32\n")
    record = read_record(Path(out.splitlines()[-1]))
    assert record.provenance.data["name"] == "imagenet"
    assert record.job.data == record.provenance.data["source"] == str(folder)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("example", "example"),
        ("../shared/data/imagenet-val227", "imagenet-val227"),
        ("/data/ILSVRC/val/", "ILSVRC"),
        ("photos.zip/validation", "photos.zip"),
        ("val", "val"),
        ("hfds/timm/mini@test", "hfds/timm/mini@test"),
        ("hub", "hub"),
    ],
)
def test_short_names(data: str, name: str) -> None:
    assert short_name(data) == name


# The user's own defaults


def own_file(text: str) -> Path:
    user_file().parent.mkdir(parents=True)
    user_file().write_text(text)
    return user_file()


def test_the_users_file_says_where_imagenet_lies(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = folder.rename(folder.with_name("it's mine"))
    own_file(f"paths:\n  imagenet: {other}\nlimit: 2\nmodel: test_vit\nseed: 3\n")
    assert main(["method=none", "weights=random", "seed=4"]) == 0
    out, err = capsys.readouterr()
    assert f"data=imagenet, {other} (paths.imagenet): 2 images" in err
    assert f"note: {user_file()} adds " in err
    record = read_record(Path(out.splitlines()[-1]))
    assert (record.job.limit, record.job.seed, record.job.model) == (2, 4, "test_vit")
    assert "limit=2" in record.provenance.command
    assert "seed=3" not in record.provenance.command


def test_the_example_is_the_example_whatever_the_file_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_file("data: /x\nmodel: deit_tiny\nworkers: 0\nbatch_size: 4\npaths: {imagenet: /y}\n")
    assert main(["plan=true"]) == 0
    assert "data:    example, 476 samples" in capsys.readouterr().out
    assert user_defaults({"batch_size"}, bare=True) == ["workers=0", "paths.imagenet=/y"]
    assert user_defaults((), bare=False)[:2] == ["data=/x", "model=deit_tiny"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("devcie: cuda\n", "Unknown key 'devcie'. Did you mean device"),
        ("- a\n", "it holds no keys"),
        ("a: [\n", "while parsing"),
        ("methods: [asap]\n", "methods is for the command line"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(text: str, says: str) -> None:
    file = own_file(text)
    with pytest.raises(BadValueError, match=rf"{re.escape(str(file))} cannot be used: .*{says}"):
        user_defaults((), bare=False)


# Names


def test_a_word_that_is_nearly_a_name_is_told_so(tmp_path: Path) -> None:
    for data, near in (("imagenete", "imagenette"), ("imagenet-v2", "imagenet_v2")):
        with pytest.raises(DataError, match=rf"Did you mean data={near}.*Data with names: example"):
            prepared(data=data)
        with pytest.raises(DataError, match=f"Did you mean data={near}"):
            prepared(data=data, bench="keepmaps")
    with pytest.raises(DataError, match=r"data=\./imagenete does not exist\. Give a folder"):
        prepared(data="./imagenete")


def test_a_name_goes_before_a_folder_of_that_name(folder: Path) -> None:
    for name in ("imagenet", "example"):
        Path(name).symlink_to(folder)
    with pytest.raises(DataError, match=r"The folder of that name here is data=\./imagenet\."):
        prepared(data="imagenet")
    assert prepared(data="./imagenet").data_name == "imagenet"
    assert address_of("example") == str(PACKAGE / "example" / "digits.zip" / "images")


# Open sets


def packed(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def imagenette(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Serve an archive as Imagenette's."""

    def serve(content: bytes) -> None:
        hub.files[PLAIN] = {"imagenette2-320.tgz": content}
        md5 = hashlib.md5(content).hexdigest()
        place = f"{hub.url}/{PLAIN}/imagenette2-320.tgz"
        monkeypatch.setattr(Imagenette, "_ARCHIVES", {"320px": (place, md5)})

    return serve


def test_imagenette_is_fetched_once_and_whole(
    hub: Hub,
    imagenette: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    part = OPEN["imagenette"].folder.with_name(".imagenette.part") / "imagenette2-320" / "val"
    (part / "n01440764").mkdir(parents=True)  # an unpacking that was stopped
    files = [
        f"imagenette2-320/{split}/n0210204{n}/a.JPEG" for split in ("train", "val") for n in (0,)
    ]
    imagenette(packed({name: encoded(0, "JPEG") for name in files}))
    assert main(["model=test_vit", "weights=random"]) == 0
    out, err = capsys.readouterr()
    home = OPEN["imagenette"].folder
    assert f"MB) once, into {home}." in err
    assert "Fetching imagenette (3925 images of 10 of ImageNet's classes, about 340 MB" in err
    assert f"{home}: 1 images are evaluated. Your own: data=<folder>." in err
    assert out.startswith("test_vit · imagenet · imagenette · 1 samples · float32\n")
    assert [path.name for path in home.parent.iterdir() if path.is_dir()] == ["imagenette"]
    hub.files.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert prepared().job.data == prepared(data="imagenette").job.data == "imagenette"


def test_what_cannot_be_fetched_is_said_and_leaves_nothing(
    hub: Hub,
    imagenette: Callable[[bytes], None],
) -> None:
    imagenette(packed({}))
    hub.lies["imagenette2-320.tgz"] = [b"other"] * 2
    with pytest.raises(NotFetchedError, match=r"about 340 MB\) could not be fetched from https"):
        prepared(data="imagenette")
    with pytest.raises(NotFetchedError, match="Three ways"):
        prepared()
    with pytest.raises(NotFetchedError, match="no such repository"):
        prepared(data="imagenet_v2")
    assert not any(one.folder.exists() for one in OPEN.values())


def test_imagenet_v2_has_classes_by_number(hub: Hub) -> None:
    names = [f"imagenetv2-matched-frequency-format-val/{number}/a.jpeg" for number in range(1000)]
    picture = encoded(0, "JPEG")
    content = packed(dict.fromkeys(names, picture))
    hub.files["vaishaal/ImageNetV2"] = {"imagenetv2-matched-frequency.tar.gz": content}
    images = open_images(address_of("imagenet_v2"), classes=1000, labels="wnid")
    assert [int(name.split("/")[0]) for name in images.ids] == images.labels
    assert images.ids[2] == "10/a.jpeg"
    hub.files.clear()
    assert address_of("imagenet_v2") == str(OPEN["imagenet_v2"].folder)


def test_an_archive_cannot_write_elsewhere(hub: Hub, tmp_path: Path) -> None:
    content = packed({"top/../../../../escaped": b"x"})
    hub.files["vaishaal/ImageNetV2"] = {"imagenetv2-matched-frequency.tar.gz": content}
    with pytest.raises(NotFetchedError, match="OutsideDestinationError"):
        address_of("imagenet_v2")
    assert not [*tmp_path.rglob("escaped")]
