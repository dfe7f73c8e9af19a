"""Models by name: the registry, published and bundled weights, devices, dtypes, transforms."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config

import asap_eval
from asap_eval.bench.images import image_batches, open_images
from asap_eval.digests import file_sha256
from asap_eval.errors import (
    BadValueError,
    UnknownNameError,
    UnsupportedModelError,
    WeightsError,
)
from asap_eval.models import ModelSpec, load_model, model_names, model_specs, spec_from
from asap_eval.models.zoo import check_device
from asap_eval.paths import conf_dir


@pytest.mark.parametrize("name", sorted(model_specs()))
def test_every_declared_model_exists(name: str) -> None:
    """The tag is one timm publishes, and the labels fit the number of classes."""
    spec = model_specs()[name]
    assert spec.description
    assert spec.source
    first = (conf_dir() / "model" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# "), "the first line says where the model comes from"
    if spec.timm is None:
        return
    config = timm.get_pretrained_cfg(spec.timm)
    assert config is not None
    assert config.tag == spec.timm.partition(".")[2]
    assert (spec.labels == "wnid") == (config.num_classes == 1000)


def test_names_list_the_models_of_the_issue() -> None:
    assert {"digits_vit", "deit_tiny", "deit_small", "deit_base", "test_vit"} <= set(model_names())


def test_near_names_are_suggested() -> None:
    with pytest.raises(UnknownNameError, match=r"'deit_tni'. Did you mean deit_tiny"):
        load_model("deit_tni")
    with pytest.raises(UnknownNameError, match=r"'vit_smal_patch16_224'.*vit_small_patch16_224"):
        load_model(ModelSpec("x", "vit_smal_patch16_224"), pretrained=False)
    with pytest.raises(UnknownNameError, match=r"pretrained tag of deit_tiny.*fb_in1k"):
        load_model("deit_tiny_patch16_224.fb_in2k", pretrained=False)
    with pytest.raises(UnknownNameError, match="Did you mean bfloat16"):
        load_model("test_vit", pretrained=False, dtype="bf16")
    with pytest.raises(UnknownNameError, match=r"option of model 'lables'. Did you mean labels"):
        spec_from({"name": "deit_tiny", "lables": "wnid"})
    with pytest.raises(UnknownNameError, match=r"model.labels 'wnids'. Did you mean wnid"):
        ModelSpec("x", labels="wnids")


def test_a_spec_of_the_registry_is_kept_and_an_override_renamed() -> None:
    deit = model_specs()["deit_tiny"]
    config = {"name": "deit_tiny", "timm": deit.timm, "labels": "wnid", "kwargs": {}}
    assert spec_from(config).name == "deit_tiny"
    other = spec_from({**config, "timm": "test_vit"})
    assert (other.name, other.timm, other.labels) == ("test_vit", "test_vit", "auto")
    digits = {"name": "digits_vit", "timm": "test_vit", "labels": "folders"}
    assert spec_from(digits).labels == "auto"


def test_random_weights_are_seeded_marked_and_leave_the_generator_alone() -> None:
    first = load_model("test_vit", weights="random")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    second = load_model("test_vit", pretrained=False)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not first.weights.trained
    assert first.weights.name == "random:seed=0"
    assert first.weights == second.weights
    assert torch.equal(first.model.head.weight, second.model.head.weight)
    assert len(first.weights.sha256) == 64


def test_a_model_is_ready_to_measure() -> None:
    loaded = load_model("test_vit", pretrained=False, dtype="bfloat16")
    parameters = list(loaded.model.parameters())
    assert {p.dtype for p in parameters} == {torch.bfloat16}
    assert not any(p.requires_grad for p in parameters)
    assert not loaded.model.training
    assert loaded.wnid_labels
    assert loaded.classes == 1000
    assert loaded.timm == "test_vit.r160_in1k"


def test_the_default_tag_is_named() -> None:
    loaded = load_model("test_vit2", pretrained=False)
    assert (loaded.name, loaded.timm) == ("test_vit2", "test_vit2.r160_in1k")


def test_the_transform_is_timms_own() -> None:
    loaded = load_model("test_vit", pretrained=False)
    ours = loaded.transform
    theirs = create_transform(**resolve_model_data_config(loaded.model), is_training=False)
    picture = Image.effect_noise((200, 260), 90).convert("RGB")
    assert torch.equal(ours(picture), theirs(picture))
    assert ours(picture).shape == (3, 160, 160)
    assert ours(picture).dtype == torch.float32


def test_labels_must_fit_the_classes() -> None:
    ten = {"num_classes": 10}
    loaded = load_model(ModelSpec("x", "test_vit", "folders", kwargs=ten), pretrained=False)
    assert (loaded.classes, loaded.labels) == (10, "folders")
    assert load_model(ModelSpec("x", "test_vit", kwargs=ten), pretrained=False).labels == "none"
    with pytest.raises(BadValueError, match="has 10 classes"):
        load_model(ModelSpec("x", "test_vit", "wnid", kwargs=ten), pretrained=False)
    with pytest.raises(BadValueError, match="no classifier"):
        load_model(
            ModelSpec("x", "test_vit", "folders", kwargs={"num_classes": 0}), pretrained=False
        )
    with pytest.raises(BadValueError, match=r"model.kwargs"):
        load_model(ModelSpec("x", "test_vit", kwargs={"colour": 1}), pretrained=False)
    with pytest.raises(BadValueError, match="names no architecture"):
        load_model(ModelSpec("x"), pretrained=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_no_gpu_is_said() -> None:
    with pytest.raises(BadValueError, match=r"device=cuda.*device=cpu"):
        load_model("test_vit", pretrained=False, device="cuda")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xpu", "meta"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(BadValueError, match=f"device={device}"):
        load_model("test_vit", pretrained=False, device=device)


def _offline(*_: Any, **__: Any) -> Any:
    raise huggingface_hub.errors.LocalEntryNotFoundError("No network\nlong story")


def test_offline_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _offline)
    with pytest.raises(WeightsError, match=r"test_vit\.r160_in1k.*No network\).*weights=<file>"):
        load_model("test_vit")


@pytest.mark.parametrize("cached", [True, False])
def test_hub_weights_carry_the_files_hash(
    cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is enough without a network; without a cached file the hub is asked."""
    file = tmp_path / "model.safetensors"
    trained = timm.create_model("test_vit")
    save_file(trained.state_dict(), file)
    asked: list[tuple[str, str]] = []

    def fetch(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(file)

    cache = fetch if cached else lambda *_: None
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cache)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _offline if cached else fetch)
    loaded = load_model("test_vit")
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors")]
    assert loaded.weights.name == "hub:timm/test_vit.r160_in1k/model.safetensors"
    assert loaded.weights.sha256 == file_sha256(file)
    assert loaded.weights.trained
    assert torch.equal(loaded.model.head.weight, trained.head.weight)


def test_a_model_without_published_weights_is_never_random_in_silence() -> None:
    with pytest.raises(WeightsError, match=r"publishes no weights for test_vit4.*weights=random"):
        load_model("test_vit4")


def test_bundled_model() -> None:
    from asap_eval.models import digits_vit

    random = load_model("digits_vit", pretrained=False)
    assert (random.classes, random.labels, random.timm) == (10, "folders", None)
    if not digits_vit.WEIGHTS.is_file():
        pytest.skip("the bundled weights are not made yet")
    loaded = load_model("digits_vit")
    assert loaded.weights.trained
    assert loaded.weights.name == "bundled:digits_vit.safetensors"
    assert loaded.weights.sha256 == file_sha256(digits_vit.WEIGHTS)
    assert next(loaded.model.parameters()).dtype == torch.float32


@pytest.mark.golden(
    "data/weights/deit_tiny_patch16_224.safetensors", "data/imagenet/n01440764/*.JPEG"
)
def test_real_weights_on_real_images(shared: Path) -> None:
    """20 photographs over all classes; the 500 are the command line's job."""
    file = shared / "data/weights/deit_tiny_patch16_224.safetensors"
    loaded = load_model("deit_tiny", weights=file)
    assert loaded.weights.sha256.startswith("0af164d9")
    images = open_images(
        str(shared / "data/imagenet"),
        classes=loaded.classes,
        labels=loaded.labels,
        limit=20,
        sample="spread",
    )
    right = 0
    with torch.inference_mode():
        for batch in image_batches(images, loaded.transform, 10):
            right += int((loaded.model(batch.pixels).argmax(1) == torch.tensor(batch.labels)).sum())
    assert right == 18


@pytest.mark.parametrize("device", ["mps", "mps:0", "xpu", "meta"])
def test_devices_that_were_never_tried_are_refused_by_name(device: str) -> None:
    with pytest.raises(BadValueError, match=f"device={device} is not supported.*float64"):
        check_device(device)


def test_a_model_on_such_a_device_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    net = load_model("test_vit", weights="random").model
    on_metal = SimpleNamespace(device=torch.device("mps"))
    monkeypatch.setattr(net, "parameters", lambda: iter([on_metal]))
    with pytest.raises(UnsupportedModelError, match="on mps"), asap_eval.reduce(net, "none"):
        pass
