"""Models by name: the registry, published and bundled weights, devices, dtypes, transforms."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from hub_stand_in import Hub
from hub_stand_in import hub as hub  # a fixture
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

import asap_eval
from asap_eval.data.images import image_batches, open_images
from asap_eval.errors import (
    BadValueError,
    UnknownNameError,
    UnsupportedModelError,
    WeightsError,
)
from asap_eval.files.digests import file_sha256
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
    count = spec.kwargs.get("num_classes", config.num_classes)
    assert (spec.labels == "wnid") == (count == 1000)


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


TEST_VIT = "timm/test_vit.r160_in1k"


@pytest.fixture
def published(hub: Hub) -> dict[str, Tensor]:
    """Weights of test_vit, which the local hub has."""
    state = timm.create_model("test_vit").state_dict()
    hub.files[TEST_VIT] = {"model.safetensors": save(state)}
    return state


def test_hub_weights_carry_the_files_hash_and_the_commit(
    hub: Hub, published: dict[str, Tensor]
) -> None:
    loaded = load_model("test_vit")
    content = hub.files[TEST_VIT]["model.safetensors"]
    assert loaded.weights.name == f"hub:{TEST_VIT}/model.safetensors"
    assert loaded.weights.sha256 == hashlib.sha256(content).hexdigest()
    assert loaded.weights.commit == hub.commit(TEST_VIT)
    assert loaded.weights.trained
    assert torch.equal(loaded.model.head.weight, published["head.weight"])


@pytest.mark.usefixtures("published")
def test_the_cache_needs_no_network(hub: Hub) -> None:
    first = load_model("test_vit")
    hub.asked.clear()
    hub.status = 500
    assert load_model("test_vit").weights == first.weights
    assert not hub.asked


def altered(hub: Hub) -> bytes:
    """The weights with one bit turned."""
    content = hub.files[TEST_VIT]["model.safetensors"]
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.usefixtures("published")
def test_damage_on_the_way_is_fetched_again_once(hub: Hub) -> None:
    hub.lies["model.safetensors"] = [altered(hub)]
    assert load_model("test_vit").weights.trained


@pytest.mark.usefixtures("published")
def test_damage_twice_is_said(hub: Hub) -> None:
    hub.lies["model.safetensors"] = [altered(hub)] * 2
    said = f"test_vit.r160_in1k could not be fetched from {hub.url}/{TEST_VIT}: .*hash.*twice"
    with pytest.raises(WeightsError, match=said):
        load_model("test_vit")


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("cut", [True, False])
def test_damage_in_the_cache_is_mended_or_said(hub: Hub, cut: bool) -> None:
    load_model("test_vit")
    (blob,) = Path(constants.HF_HUB_CACHE).rglob("blobs/*")
    content = blob.read_bytes()
    blob.write_bytes(content[:-4] if cut else altered(hub))
    hub.status = 500
    with pytest.raises(WeightsError, match=r"are damaged in the local cache, and .*500.*later"):
        load_model("test_vit")
    hub.status = None
    load_model("test_vit")
    assert blob.read_bytes() == content


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "401 .unauthorized.*hf auth login"),
        (429, "429 .too many requests.*Wait"),
        (500, "500 .internal server error.*later"),
    ],
)
def test_each_fault_of_the_hub_is_said(hub: Hub, status: int, said: str) -> None:
    hub.status = status
    with pytest.raises(WeightsError, match=f"test_vit.r160_in1k.*{hub.url}.*{said}"):
        load_model("test_vit")


@pytest.mark.usefixtures("published")
def test_gated_weights_say_how_to_log_in(hub: Hub) -> None:
    hub.status, hub.headers = 403, {"X-Error-Code": "GatedRepo"}
    with pytest.raises(WeightsError, match=f"gated.*{hub.url}/{TEST_VIT}.*hf auth login"):
        load_model("test_vit")


def test_a_repository_that_is_not_there(hub: Hub) -> None:
    with pytest.raises(WeightsError, match=r"no such repository.*weights=<file>"):
        load_model("test_vit")


def test_a_refused_connection_is_no_matter_of_names(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        elsewhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", elsewhere)
    url = f"{elsewhere}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    with pytest.raises(WeightsError, match=rf"{elsewhere}.*refused.*HF_ENDPOINT"):
        load_model("test_vit")


def test_offline_hub_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = r"test_vit\.r160_in1k.*HF_HUB_OFFLINE=1 forbids the network.*weights=<file>"
    with pytest.raises(WeightsError, match=said):
        load_model("test_vit")
    assert not hub.asked


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
    "data/weights/*.safetensors", "data/imagenet/*/*.JPEG", "data/weights/*.classes.txt"
)
@pytest.mark.parametrize(
    ("architecture", "file", "sha256", "right"),
    [
        ("deit_tiny", "deit_tiny_patch16_224.safetensors", "0af164d9", 18),
        (
            "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
            "vit_tiny_augreg_tinyimagenet.safetensors",
            "e519248f",
            14,
        ),
    ],
    ids=["deit", "augreg"],
)
def test_real_weights_on_real_images(
    architecture: str, file: str, sha256: str, right: int, shared: Path, tmp_path: Path
) -> None:
    """20 photographs over all classes that the weights know; the 500 are the command line's job."""
    loaded = load_model(architecture, weights=shared / "data/weights" / file)
    assert loaded.weights.sha256.startswith(sha256)
    known = (shared / "data/weights" / file).with_suffix(".classes.txt")
    classes = known.read_text().split() if known.is_file() else None
    for folder in (shared / "data/imagenet").glob("n*"):
        if classes is None or folder.name in classes:
            (tmp_path / folder.name).symlink_to(folder)
    images = open_images(
        str(tmp_path), classes=loaded.classes, labels=loaded.labels, limit=20, sample="spread"
    )
    found = 0
    with torch.inference_mode():
        for batch in image_batches(images, loaded.transform, 10):
            found += int((loaded.model(batch.pixels).argmax(1) == torch.tensor(batch.labels)).sum())
    assert found == right


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
