"""What a command reads and writes is looked at before a model is loaded or anything fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from asap_eval.cli.front import main
from asap_eval.data import named
from asap_eval.models.look import of_imagenet
from asap_eval.models.spec import find, with_options
from asap_eval.runner import latest_model
from asap_eval.train.method import setting

SAID = "model=deit_tiny weights=random"
VIDEOS = "model=deit_tiny weights=random bench=kinetics bench.head=here.safetensors"
QUESTIONS = "model=llava_tiny bench=vlm tasks=pope"
TRAINED = f"train method=dynamicvit out=new.safetensors {SAID}"
FAULTS = {
    "data that is not there": (f"{SAID} data=nowhere", "data=nowhere does not exist"),
    "data by a misspelt name": (f"{SAID} data=imagenete", "Did you mean data=imagenet"),
    "a folder without images": (f"{SAID} data=hollow", "no image in its 1 class folders"),
    "an empty folder": (f"{SAID} data=empty", "data=empty is empty"),
    "a flat folder": (f"{SAID} data=flat", "lie in flat/ itself"),
    "class folders with labels": (f"{SAID} data=own labels=here.txt", "Leave labels out"),
    "rows of a folder": (f"{SAID} data=hfds/./gone", "./gone does not exist"),
    "shards": (f"{SAID} data=wds/./gone", "./gone does not exist"),
    "labels": (f"{SAID} data=flat labels=gone.txt", "labels=gone.txt does not exist"),
    "labels of a walk": (f"{SAID} bench=walk data=flat labels=gone.txt", "gone.txt does not exist"),
    "pictures": (f"{SAID} bench=keepmaps images=empty", "there is no image"),
    "photographs": (f"{SAID} bench=saliency data=own", "own/images"),
    "weights": ("model=deit_tiny weights=gone.pth data=own", "weights=gone.pth does not exist"),
    "weights of LLaVA": (f"{QUESTIONS} weights=gone data=questions", "weights=gone is no folder"),
    "names of classes": (f"{SAID} data=own model.classes=gone.txt", "model.classes=gone.txt"),
    "a zero-shot head": (
        "model=clip_vit_l14_224 weights=random model.head=gone data=own",
        "model.head=gone",
    ),
    "predictors": (
        f"{SAID} data=own method=dynamicvit method.checkpoint=gone.pth",
        "method.checkpoint=gone.pth does not exist",
    ),
    "no predictors": (f"{SAID} data=own method=dynamicvit", "asap-eval train method=dynamicvit"),
    "a head of videos": (f"{VIDEOS} data=own bench.head=gone", "bench.head=gone does not exist"),
    "videos": (f"{VIDEOS} data=nowhere", "data=nowhere does not exist"),
    "files of a CSV": (f"{VIDEOS} data=own bench.videos=gone", "bench.videos=gone"),
    "videos to train on": (f"stage=train {SAID} bench=kinetics data=nowhere", "does not exist"),
    "questions": (f"{QUESTIONS} data=own", "no questions of task pope"),
    "no questions": (f"{QUESTIONS} data=nowhere", "data=nowhere is no folder"),
    "pictures to ask of": (
        "model=llava_tiny bench=latency bench.question=Why? data=nowhere",
        "data=nowhere is no folder",
    ),
    "a model of timm": ("model.timm=vit_smal_patch16_224 data=own", "vit_small_patch16_224"),
    "a tag of timm": ("model.timm=vit_small_patch16_224.mine data=own", "pretrained tag"),
    "a device": (f"{SAID} data=own device=tpu", "device=tpu is not a device"),
    "results": (f"{SAID} data=own results=here.txt", "here.txt is a file"),
    "results below a file": (f"{SAID} data=own results=here.txt/a/b", "here.txt is a file"),
    "results where no file can be": (
        f"{SAID} data=own results=/proc/here",
        "a place that can be written",
    ),
    "images to train on": (f"{TRAINED} data=nowhere", "data=nowhere does not exist"),
    "weights to train on": (f"{TRAINED} weights=gone data=own", "weights=gone does not exist"),
    "a training's file": (f"{TRAINED} data=own out=here.txt/x.safetensors", "here.txt is a file"),
}
ORDER = {
    "a device before weights": (
        "model=deit_tiny weights=gone.pth device=tpu data=nowhere",
        "device=tpu",
    ),
    "weights before data": ("model=deit_tiny weights=gone.pth data=nowhere", "weights=gone.pth"),
    "predictors before data": (
        f"{SAID} data=nowhere method=dynamicvit method.checkpoint=gone",
        "method.checkpoint=gone",
    ),
    "results before weights": ("model=deit_tiny weights=gone data=own results=here.txt", "results"),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with something of every kind, and a machine that refuses to load or fetch."""
    for folder in ("own/cat", "flat", "empty", "hollow/cat", "questions"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("own/cat/1.png", "flat/1.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / file)
    (tmp_path / "here.txt").write_text("cat\n")
    (tmp_path / "here.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    def refused(*given: object, **more: object) -> None:
        raise AssertionError("loaded or fetched")

    for place, name in (
        (latest_model, "load_model"),
        (latest_model, "load_vlm"),
        (setting, "load_model"),
        (named.hub_files, "fetch"),
    ):
        monkeypatch.setattr(place, name, refused)


def errors_of(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line that fails says on standard error."""
    words = dict.fromkeys(line.split())
    keys = {word.partition("=")[0]: word for word in words}  # the last of a key wins
    assert main(list(keys.values())) != 0
    return capsys.readouterr().err


@pytest.mark.parametrize(("line", "said"), FAULTS.values(), ids=FAULTS)
def test_what_is_missing_is_said_before_anything_is_loaded(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = errors_of(line, capsys)
    assert said in found
    assert "Traceback" not in found


@pytest.mark.parametrize(("line", "said"), ORDER.values(), ids=ORDER)
def test_of_two_faults_the_cheaper_to_see_is_said(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in errors_of(line, capsys)


@pytest.mark.parametrize("line", [f"{SAID} data=own", f"{TRAINED} data=own"])
def test_without_a_fault_the_model_is_loaded(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The refusal above is what a sound command meets."""
    assert "loaded or fetched" in errors_of(line, capsys)


def test_data_that_nobody_names_is_refused_before_weights_where_there_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("IMAGENET", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = errors_of("model=deit_base method=asap k=8", capsys)
    assert "Three ways" in found
    found = errors_of("model=vit_tiny_patch16_224 model.num_classes=10 weights=here.txt", capsys)
    assert "data is missing" in found


def test_folders_of_results_need_not_be_there_yet(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = errors_of(f"{SAID} data=nowhere results=new/folder plan=true", capsys)
    assert "results" not in found
    assert not (tmp_path / "new").exists()


def test_what_is_said_of_the_data_is_said_once_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    words = "model=digits_vit methods=none,mass k=0.5 limit=4 cache=off"
    for _ in range(2):
        assert main(words.split()) == 0
        assert capsys.readouterr().err.count("images are evaluated") == 1


def test_a_share_for_percent_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{SAID} data=own method=tome budget=macs"
    assert "for 35 % give target=-35." in errors_of(f"{line} target=-0.35", capsys)
    assert "give target" not in errors_of(f"{line} target=-35", capsys)


def test_another_number_of_classes_makes_a_declared_model_ones_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the error on own classes says: any name, with `model.num_classes`."""
    spec = with_options("deit_tiny", {"num_classes": 10})
    assert (spec.name, spec.labels) == ("deit_tiny", "auto")
    assert with_options("deit_tiny", {"num_classes": 1000}).labels == "wnid"
    assert not of_imagenet(spec)
    assert of_imagenet(find("deit_tiny"))
    assert "data is missing" in errors_of(f"{SAID} model.num_classes=10", capsys)
