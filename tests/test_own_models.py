"""Models of one's own: their classes, image size and pixels, and how frameworks save them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pictures import picture_folder
from PIL import Image
from test_cli import Run
from test_cli import command as command  # a fixture
from timm.data import create_transform
from timm.models import load_checkpoint
from timm.models.vision_transformer import checkpoint_filter_fn

from asap_eval.cli.groups import ANYTHING
from asap_eval.errors import BadValueError, UnknownNameError, WeightsError
from asap_eval.models import ModelSpec, load_model

NAME = "test_vit"


def own(**options: Any) -> ModelSpec:
    return ModelSpec(NAME, NAME, **options)


@pytest.fixture(scope="module")
def trained() -> dict[str, torch.Tensor]:
    """A state dict of the architecture with ten classes."""
    torch.manual_seed(3)
    return timm.create_model(NAME, num_classes=10).state_dict()


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


def zeros(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def saved(form: str, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """How training scripts and frameworks save a model."""
    lightning = {"epoch": 3, "pytorch-lightning_version": "2.5", "optimizer_states": []}
    loss = {"loss.weight": torch.ones(10)}
    return {
        "plain": state,
        "timm": {"arch": NAME, "state_dict": zeros(state), "state_dict_ema": state},
        "DeiT": {"model": state, "epoch": 300},
        "DataParallel": {"state_dict": under("module.", state)},
        "Lightning": {**lightning, "state_dict": under("model.", state)},
        "Lightning with a loss": {**lightning, "state_dict": {**under("net.vit.", state), **loss}},
        "Lightning with EMA": {
            **lightning,
            "state_dict": {**under("model.", zeros(state)), **under("ema_model.module.", state)},
        },
    }[form]


FORMS = (
    *("plain", "timm", "DeiT", "DataParallel"),
    *("Lightning", "Lightning with a loss", "Lightning with EMA"),
)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_model(
    form: str, trained: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(saved(form, trained), path := tmp_path / "own.pth")
    loaded = load_model(own(num_classes=10), weights=path)
    assert (loaded.classes, loaded.labels) == (10, "folders")
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, trained[key]), key


def test_what_is_left_out_is_said(trained: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(saved("Lightning with a loss", trained), path := tmp_path / "own.pth")
    info = load_model(own(num_classes=10), weights=path).weights
    assert info.entry == "state_dict.net.vit"
    assert info.left_out == "1 tensors beside net.vit.* (loss.weight)"


def test_two_copies_are_refused(trained: dict[str, torch.Tensor], tmp_path: Path) -> None:
    both = {**under("student.", trained), **under("teacher.", trained)}
    torch.save({"state_dict": both}, path := tmp_path / "own.pth")
    with pytest.raises(WeightsError, match=r"2 models of this kind \(student\., teacher\.\)"):
        load_model(own(num_classes=10), weights=path)


def test_names_say_how_many_classes(trained: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(trained, path := tmp_path / "own.pth")
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {number}\n" for number in range(10)))
    for classes in (str(names), names.read_text().splitlines()):
        loaded = load_model(own(classes=classes), weights=path)
        assert loaded.classes == 10
        assert loaded.class_names == tuple(f"class {number}" for number in range(10))


@pytest.mark.parametrize(
    ("made", "hint"),
    [
        ({"num_classes": 10}, r"add model.num_classes=10\.$"),
        ({"num_classes": 10, "img_size": 96}, r"add model.num_classes=10 model.img_size=96\.$"),
        ({"depth": 3}, "Check that `model=` names the architecture"),
    ],
)
def test_the_error_says_which_key_is_missing(
    made: dict[str, Any], hint: str, tmp_path: Path
) -> None:
    torch.save(timm.create_model(NAME, **made).state_dict(), path := tmp_path / "own.pth")
    with pytest.raises(WeightsError, match=hint):
        load_model(own(), weights=path)


@pytest.mark.parametrize("size", [96, (96, 64), [64, 96]])
def test_position_embeddings_are_resampled_as_timm_does(size: Any, tmp_path: Path) -> None:
    net = timm.create_model(NAME)
    torch.save(net.state_dict(), path := tmp_path / "own.pth")
    loaded = load_model(own(img_size=size), weights=path)
    theirs = timm.create_model(NAME, img_size=size)
    load_checkpoint(theirs, str(path), filter_fn=checkpoint_filter_fn)
    for key, value in theirs.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value), key
    assert loaded.weights.resampled.startswith("position embeddings from 10 x 10 to")
    height, width = (size, size) if isinstance(size, int) else size
    assert loaded.transform(Image.new("RGB", (300, 200))).shape == (3, height, width)


@pytest.mark.parametrize("size", [(80, 320), [320, 80]])
def test_as_many_patches_in_another_grid_are_refused(size: Any, tmp_path: Path) -> None:
    """100 of 10 x 10 are no 5 x 20: left as they are, they would stand in the wrong places."""
    torch.save(timm.create_model(NAME).state_dict(), path := tmp_path / "own.pth")
    with pytest.raises(WeightsError, match=r"as many for 10 x 10 as for (5 x 20|20 x 5) patches"):
        load_model(own(img_size=size), weights=path)


def test_pixels_are_as_asked(tmp_path: Path) -> None:
    asked = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "crop_pct": 0.5,
        "interpolation": "bilinear",
    }
    picture = Image.effect_mandelbrot((260, 200), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    loaded = load_model(own(**asked), weights="random")
    theirs = create_transform(input_size=(3, 160, 160), is_training=False, **asked)
    assert torch.equal(loaded.transform(picture), theirs(picture))
    assert {name: loaded.params[name] for name in asked} == asked


def test_what_would_be_so_anyhow_is_no_option() -> None:
    config = timm.create_model(NAME).pretrained_cfg
    same = {name: config[name] for name in ("mean", "std", "crop_pct", "interpolation")}
    asked = load_model(own(num_classes=1000, img_size=160, **same), weights="random")
    assert asked.params == load_model(own(), weights="random").params


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"num_classes": 0}, BadValueError, "model.num_classes=0: give a whole number >= 1"),
        ({"num_classes": "ten"}, BadValueError, "model.num_classes=ten"),
        ({"img_size": [96]}, BadValueError, r"model.img_size=\[96\]: give pixels of a side"),
        ({"mean": 0.5}, BadValueError, "model.mean=0.5: give three numbers"),
        ({"std": [0, 1, 1]}, BadValueError, "model.std"),
        ({"crop_pct": 90}, BadValueError, "model.crop_pct=90: give a share, 0..1"),
        ({"interpolation": "cubic"}, UnknownNameError, "Did you mean bicubic"),
        ({"num_classes": 9, "kwargs": {"num_classes": 9}}, BadValueError, "mean the same"),
    ],
)
def test_bad_options_are_refused(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        load_model(own(**options), weights="random")


def test_one_command_and_one_table(
    trained: dict[str, torch.Tensor], tmp_path: Path, command: Run
) -> None:
    """Ten classes of one's own, in folders, and a model of timm's by its name."""
    picture_folder(tmp_path / "own", 2, [f"kind {number}" for number in range(10)])
    torch.save({"state_dict": trained}, tmp_path / "own.pth")
    code, out, err = command(
        f"model={NAME}.r160_in1k",
        "model.num_classes=10",
        "model.img_size=[96,96]",
        "model.crop_pct=1.0",
        f"weights={tmp_path / 'own.pth'}",
        f"data={tmp_path / 'own'}",
        "methods=[none,tome,random]",
        "budget=macs",
        "target=-10",
        "budget.samples=4",
    )
    assert code == 0, err
    table = "\n".join(out)
    assert all(name in table for name in ("none", "tome", "random"))
    assert table.count("20 samples") == 1
    assert "taken in sorted order" in err


def test_options_of_models_are_those_of_the_command_line() -> None:
    own = {option.name for option in fields(ModelSpec)}
    assert set(ANYTHING) == own - {"description", "source", "hf", "family"}


def test_a_name_that_timm_nearly_has(command: Run) -> None:
    code, _, err = command("model=vit_tiny_patch16_22", "data=example")
    assert code == 2
    assert "by timm's name, too: vit_tiny_patch16_224" in err


def test_repositories_take_pictures_as_they_say() -> None:
    with pytest.raises(BadValueError, match=r"model\.img_size is for timm's image models"):
        ModelSpec("llava", hf="owner/name", family="llava", img_size=224)
