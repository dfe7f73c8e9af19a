"""Zero-shot heads: logits of whole CLIP models, on towers of timm and of Hugging Face."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from flops import counting
from pictures import picture_folder
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

import asap_eval
from asap_eval.cli import main
from asap_eval.cli.head import main as make_head
from asap_eval.errors import AsapEvalError, BadValueError, WeightsError
from asap_eval.hosts import geometry_of
from asap_eval.models import ModelSpec, load_model
from asap_eval.models.text_head import (
    TEMPLATES,
    imagenet_names,
    read_names,
    read_templates,
    text_embeds,
)
from asap_eval.models.zero_shot import SCALE, attach, read_head
from asap_eval.record import read_record
from asap_eval.work.macs import unpruned_macs

NAMES = {"n03": "cat", "n01": "dog", "n02": "red car"}
IN_ORDER = ["dog", "red car", "cat"]
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 4,
    "projection_dim": 16,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny whole CLIP model with random weights, and a tokenizer of letters."""
    where = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefghijklmnopqrstuvwxyz.", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz.")]
    tokens = [*letters, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "eos_token_id": vocabulary["<|endoftext|>"],
        "bos_token_id": vocabulary["<|startoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }
    config = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    clip = tiny.shake(CLIPModel(config), 5, 1.7)
    clip.logit_scale.data.fill_(2.5)
    clip.save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def clip(folder: Path) -> Any:
    return CLIPModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def head(folder: Path) -> Path:
    """The head of three classes that the command writes."""
    names, out = folder / "names.txt", folder / "head.safetensors"
    names.write_text("".join(f"{wnid} {name}\n" for wnid, name in NAMES.items()))
    assert make_head(["--clip", str(folder), "--names", str(names), "--out", str(out)]) == 0
    return out


def expected(clip: Any, folder: Path, images: Tensor) -> Tensor:
    """CLIP's own ``logits_per_image``."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    prompts = [TEMPLATES[0].format(name) for name in IN_ORDER]
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits: Tensor = clip(pixel_values=images, **tokens).logits_per_image
    return logits


def spec(folder: Path, head: Path) -> ModelSpec:
    return ModelSpec("tower", hf=str(folder), kwargs=VISION, head=str(head), labels="folders")


def timm_twin(clip: Any) -> VisionTransformer:
    """timm's CLIP architecture with the same weights."""
    model = VisionTransformer(
        img_size=24, patch_size=4, embed_dim=32, depth=5, num_heads=2, mlp_ratio=2,
        num_classes=16, pre_norm=True, norm_layer=nn.LayerNorm, act_layer=QuickGELU,
    )  # fmt: skip
    ours, theirs = model.state_dict(), clip.vision_model.state_dict()
    renamed = {
        "cls_token": theirs["embeddings.class_embedding"].view(1, 1, -1),
        "pos_embed": theirs["embeddings.position_embedding.weight"][None],
        "patch_embed.proj.weight": theirs["embeddings.patch_embedding.weight"],
        "head.weight": clip.visual_projection.weight,
        "head.bias": torch.zeros(16),
    }
    pairs = {"norm_pre": "pre_layrnorm", "norm": "post_layernorm"}
    for i in range(5):
        layer, block = f"encoder.layers.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            parts = [theirs[f"{layer}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            renamed[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
        pairs |= {
            f"{block}.attn.proj": f"{layer}.self_attn.out_proj",
            f"{block}.norm1": f"{layer}.layer_norm1",
            f"{block}.norm2": f"{layer}.layer_norm2",
            f"{block}.mlp.fc1": f"{layer}.mlp.fc1",
            f"{block}.mlp.fc2": f"{layer}.mlp.fc2",
        }
    for here, there in pairs.items():
        for kind in ("weight", "bias"):
            renamed[f"{here}.{kind}"] = theirs[f"{there}.{kind}"]
    assert set(renamed) == set(ours)
    model.load_state_dict(renamed)
    return model.eval().requires_grad_(False)


def test_hugging_faces_tower_gives_clips_logits(folder: Path, clip: Any, head: Path) -> None:
    loaded = load_model(spec(folder, head))
    images = tiny.images(4)
    wanted = expected(clip, folder, images)
    assert wanted.std() > 0.1
    torch.testing.assert_close(tiny.output(loaded.model, images), wanted, rtol=0, atol=1e-5)
    assert (loaded.classes, loaded.labels, loaded.timm) == (3, "folders", None)
    assert loaded.weights.trained
    assert len(loaded.weights.head_sha256) == 64


def test_timms_tower_gives_clips_logits(folder: Path, clip: Any, head: Path) -> None:
    model, images = timm_twin(clip), tiny.images(4)
    attach(model, read_head(head), "head")
    wanted = expected(clip, folder, images)
    torch.testing.assert_close(tiny.output(model, images), wanted, rtol=0, atol=1e-5)
    assert model.num_classes == 3


@pytest.mark.parametrize("kind", ["timm", "hf"])
def test_methods_and_work_with_a_head(kind: str, folder: Path, clip: Any, head: Path) -> None:
    model = timm_twin(clip) if kind == "timm" else load_model(spec(folder, head)).model
    if kind == "timm":
        attach(model, read_head(head), "head")
    images = tiny.images(4)
    plain = tiny.output(model, images)
    with asap_eval.reduce(model, "none"):
        assert torch.equal(tiny.output(model, images), plain)
    for method, k in (("random", 0.5), ("downsample", 0.5)):
        with asap_eval.reduce(model, method, k=k) as trace:
            got = tiny.output(model, images)
        assert got.shape == (4, 3)
        assert (trace.lengths[-1] < 37).all()
        assert (got - plain).abs().max() > 1e-3
    assert torch.equal(tiny.output(model, images), plain)
    with counting() as counter:
        tiny.output(model, images[:1])
    assert counter.get_total_flops() == 2 * unpruned_macs(geometry_of(model))


def test_a_tower_without_a_head_gives_projected_features(folder: Path, clip: Any) -> None:
    loaded = load_model(ModelSpec("tower", hf=str(folder), kwargs=VISION))
    images = tiny.images(3)
    features = clip.get_image_features(images).pooler_output
    torch.testing.assert_close(tiny.output(loaded.model, images), features, rtol=0, atol=1e-6)
    assert (loaded.classes, loaded.labels) == (0, "none")


def test_weights_of_a_whole_clip_file_fit(folder: Path) -> None:
    published = load_model(ModelSpec("t", hf=str(folder), kwargs=VISION))
    given = load_model(
        ModelSpec("t", hf="nobody/nothing", kwargs=VISION), weights=folder / "model.safetensors"
    )
    for name, value in published.model.state_dict().items():
        assert torch.equal(value, given.model.state_dict()[name])
    with pytest.raises(WeightsError, match="do not fit the model"):
        load_model(ModelSpec("t", hf=str(folder), kwargs={**VISION, "hidden_size": 16}))
    with pytest.raises(WeightsError, match=r"nobody/nothing.*weights=<file>"):
        load_model(ModelSpec("t", hf="nobody/nothing", kwargs=VISION))
    with pytest.raises(BadValueError, match=r"model\.kwargs\.hiden"):
        load_model(ModelSpec("t", hf="nobody/nothing", kwargs={"hiden": 1}), weights="random")


def test_nothing_of_a_tower_is_left_out(folder: Path, tmp_path: Path) -> None:
    """The text model is; another part of the tower would be missing in its features."""
    state = load_file(folder / "model.safetensors") | {"vision_adapter.weight": torch.ones(2)}
    file = saved(tmp_path / "more.safetensors", **state)
    with pytest.raises(WeightsError, match=r"1 unexpected: vision_adapter\.weight"):
        load_model(ModelSpec("t", hf="nobody/nothing", kwargs=VISION), weights=file)
    more = Path(shutil.copytree(folder, tmp_path / "more"))
    shutil.copy(file, more / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 unexpected: vision_adapter\.weight"):
        load_model(ModelSpec("t", hf=str(more), kwargs=VISION))


@pytest.mark.parametrize("name", ["num_attention_heads", "hidden_act", "layer_norm_eps"])
def test_what_no_shape_tells_is_compared(name: str, folder: Path) -> None:
    other = {"num_attention_heads": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6}[name]
    with pytest.raises(WeightsError, match=rf"{name}=.*, not {other}: give model\.kwargs\.{name}="):
        load_model(ModelSpec("t", hf=str(folder), kwargs={**VISION, name: other}))


def test_the_file_says_what_it_is(head: Path, folder: Path, clip: Any) -> None:
    with safe_open(head, "pt") as archive:
        metadata = archive.metadata()
    assert json.loads(metadata["classes"]) == ["n01", "n02", "n03"]
    assert json.loads(metadata["names"]) == IN_ORDER
    assert json.loads(metadata["templates"]) == ["a photo of a {}."]
    read = read_head(head)
    assert read.classes == ("n01", "n02", "n03")
    assert read.scale == pytest.approx(clip.logit_scale.detach().exp().item())


def test_several_prompts_are_averaged_after_normalising(folder: Path, clip: Any) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    prompts = ["a photo of a {}.", "{} in the dark"]
    rows = []
    for prompt in prompts:
        with torch.no_grad():
            tokens = tokenizer([prompt.format("cat")], return_tensors="pt")
            one = clip.get_text_features(**tokens).pooler_output[0]
        rows.append(one / one.norm())
    mean = (rows[0] + rows[1]) / 2
    got = text_embeds(clip, tokenizer, ["cat"], prompts)[0]
    torch.testing.assert_close(got, mean / mean.norm(), rtol=0, atol=1e-6)


def saved(path: Path, metadata: dict[str, str] | None = None, **tensors: Tensor) -> Path:
    save_file(tensors, path, metadata)
    return path


def test_length_and_scale_of_a_hand_made_file(tmp_path: Path) -> None:
    embeds = torch.randn(3, 16)
    file = saved(tmp_path / "h.safetensors", text_embeds=embeds)
    read = read_head(file)
    assert read.scale == SCALE
    assert read.classes is None
    torch.testing.assert_close(read.embeds, embeds / embeds.norm(dim=1, keepdim=True))


def test_bad_files_are_refused(tmp_path: Path, head: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not exist.*asap-eval head"):
        read_head(tmp_path / "no.safetensors")
    broken, embeds = tmp_path / "broken.safetensors", torch.ones(2, 3)
    broken.write_bytes(b"no")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_head(broken)
    with pytest.raises(WeightsError, match=r"other.*needs text_embeds"):
        read_head(saved(tmp_path / "a.safetensors", other=torch.ones(2)))
    with pytest.raises(WeightsError, match=r"logit_bias.*nothing else"):
        read_head(saved(tmp_path / "e.safetensors", text_embeds=embeds, logit_bias=torch.ones(1)))
    with pytest.raises(WeightsError, match="no row zero"):
        read_head(saved(tmp_path / "b.safetensors", text_embeds=torch.zeros(2, 3)))
    tensors = {"text_embeds": torch.ones(2, 3), "logit_scale": torch.tensor(1e9)}
    with pytest.raises(WeightsError, match="is no factor"):
        read_head(saved(tmp_path / "c.safetensors", **tensors))
    for classes in (["n02", "n01"], ["n01"], ["n01", "n01"]):
        given = {"classes": json.dumps(classes)}
        file = saved(tmp_path / "d.safetensors", given, text_embeds=torch.ones(2, 3))
        with pytest.raises(WeightsError, match="sorted"):
            read_head(file)


def test_a_head_has_to_fit_its_tower(head: Path) -> None:
    with pytest.raises(WeightsError, match=r"width 16.*ends in 11 features"):
        attach(tiny.vit(0), read_head(head), "x")


def test_imagenet_heads_are_checked_for_their_classes(tmp_path: Path, folder: Path) -> None:
    ids = ImageNetInfo().label_names()
    wrong = sorted([*ids[:-1], "n99999999"])
    for classes, fits in ((ids, True), (wrong, False)):
        given = {"classes": json.dumps(list(classes))}
        file = saved(tmp_path / "h.safetensors", given, text_embeds=torch.randn(1000, 16))
        named = ModelSpec("t", hf=str(folder), kwargs=VISION, head=str(file))
        if fits:
            assert load_model(named).labels == "wnid"
        else:
            with pytest.raises(WeightsError, match="class 999 is n99999999, not n15075141"):
                load_model(named)


def test_names_and_templates_are_read(tmp_path: Path) -> None:
    file = tmp_path / "f.txt"
    file.write_text("n02\tgreat white shark\n\nn01 tench\n")
    assert read_names(file) == {"n02": "great white shark", "n01": "tench"}
    for text in ("n01\n", "n01 a\nn01 b\n", ""):
        file.write_text(text)
        with pytest.raises(BadValueError, match=r"id|names no class"):
            read_names(file)
    file.write_text("a {}\nthe {} there\n")
    assert read_templates(file) == ["a {}", "the {} there"]
    for text in ("", "a cat\n", "{} and {}\n"):
        file.write_text(text)
        with pytest.raises(AsapEvalError, match="one prompt a line"):
            read_templates(file)
    assert next(iter(imagenet_names())) == "n01440764"
    assert imagenet_names()["n01440764"] == "tench"


def test_a_model_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_head(["--clip", str(tmp_path), "--out", str(tmp_path / "h")]) == 1
    assert "is no folder with a config.json" in capsys.readouterr().err
    assert not (tmp_path / "h").exists()


def test_a_run_and_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """timm's CLIP with random weights: it is scored, and another head has another key."""
    monkeypatch.chdir(tmp_path)
    data = picture_folder(tmp_path / "images", 1)
    keys = set()
    for seed in range(2):
        g = torch.Generator().manual_seed(seed)
        saved(Path("h.safetensors"), text_embeds=torch.randn(1000, 512, generator=g))
        arguments = [
            "model.timm=vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", "model.head=h.safetensors",
            "weights=random", f"data={data}", "method=none", "results=results",
        ]  # fmt: skip
        assert main(arguments) == 0
        for path in Path("results").glob("*.json"):
            keys.add(read_record(path).key)
    assert len(keys) == 2
    given = ["model=deit_tiny", "weights=random", "model.head=h.safetensors", f"data={data}"]
    assert main(given) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "embeddings of width 512, but this VisionTransformer ends in" in said
    assert "A zero-shot head goes behind the projection of the CLIP model that made it." in said
