"""Models of 16 bit are upstream's own: what upstream keeps in fp32 stays so, and logits are its.

Heads are 128 wide and images, or prompts, longer than 700 tokens: rotary angles of rounded
frequencies are right for the first tokens and wrong by radians for the last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import tiny
import tiny_llava as small
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import asap_eval
from asap_eval.models import LoadedVlm, ModelSpec, load_model, load_vlm
from asap_eval.models.lvvit import lvvit_s

WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 2}
VISION = {**WIDE, **HEADS, "image_size": 168, "patch_size": 14, "projection_dim": 64}
TEXT = {**WIDE, **HEADS, "num_key_value_heads": 2, "vocab_size": 260, "pad_token_id": 0}
GRIDS = [[168, 336], [336, 168], [336, 336]]
QUESTION = "What is there, and where, and who is next to whom? " * 12

VLMS = {
    "llava": ModelSpec(
        "wide", family="llava", kwargs={"vision": VISION, "text": TEXT, "image_token_index": 3}
    ),
    "llava_next": ModelSpec(
        "wide",
        family="llava_next",
        kwargs={
            "vision": VISION,
            "text": TEXT,
            "image_token_index": 3,
            "image_grid_pinpoints": GRIDS,
        },
    ),
}

both_dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def buffers(model: nn.Module) -> dict[str, torch.dtype]:
    return {name: buffer.dtype for name, buffer in model.named_buffers()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a vision-language model in fp32; each is made once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            loaded = load_vlm(VLMS[family])
            loaded.model.save_pretrained(made[family])
            loaded.processor.save_pretrained(made[family])
        return made[family]

    return folder


def prompt(loaded: LoadedVlm) -> dict[str, Any]:
    given = loaded.inputs([small.pictures()[2]], [QUESTION])
    assert given["input_ids"].shape[1] >= 700
    return given


@both_dtypes
@pytest.mark.parametrize(
    ("family", "way"), [("llava", "folder"), ("llava", "seed"), ("llava_next", "folder")]
)
def test_language_models(
    family: str, way: str, dtype: torch.dtype, saved: Callable[[str], Path]
) -> None:
    from transformers import AutoModelForImageTextToText

    kind = AutoModelForImageTextToText
    upstream = kind.from_pretrained(saved(family), dtype=dtype, attn_implementation="sdpa").eval()
    weights = saved(family) if way == "folder" else None
    ours = load_vlm(VLMS[family], weights=weights, dtype=name_of(dtype))
    assert buffers(ours.model) == buffers(upstream)
    given = prompt(ours)
    with torch.no_grad():
        expected = upstream(**given).logits
        assert torch.equal(ours.model(**given).logits, expected)
        with asap_eval.reduce(ours.model, "none"):
            assert torch.equal(ours.model(**given).logits, expected)


KWARGS = {"embed_dim": 256, "num_heads": 2, "depth": 4, "num_classes": 10}


def timm_vit(folder: Path) -> tuple[ModelSpec, Path, nn.Module]:
    """729 patches, as below; the weights are in a file."""
    kwargs = {**KWARGS, "img_size": 432}
    model = tiny.shake(timm.create_model("vit_tiny_patch16_224", **kwargs), 3, 1.7)
    save_file(model.state_dict(), folder / "w.safetensors")
    return ModelSpec("t", "vit_tiny_patch16_224", kwargs=kwargs), folder / "w.safetensors", model


def lv_vit(folder: Path) -> tuple[ModelSpec, Path, nn.Module]:
    kwargs = {**KWARGS, "img_size": 108, "patch_size": 4}
    model = tiny.shake(lvvit_s(**kwargs), 3, 1.7)
    save_file(model.state_dict(), folder / "w.safetensors")
    return ModelSpec("lvvit_s", kwargs=kwargs), folder / "w.safetensors", model


@both_dtypes
@pytest.mark.parametrize("make", [timm_vit, lv_vit])
def test_image_models(make: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    """Their own way to 16 bit, in timm's scripts too, is to cast the whole model."""
    spec, file, upstream = make(tmp_path)
    upstream.load_state_dict(load_file(file))
    ours = load_model(spec, weights=file, dtype=name_of(dtype)).model
    _same(ours, upstream.to(dtype).eval(), tiny.images(1, spec.kwargs["img_size"]).to(dtype))


@both_dtypes
def test_clip_towers(dtype: torch.dtype, tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

    vision = {**VISION, "image_size": 378}
    text = {**WIDE, **HEADS, "vocab_size": 64, "projection_dim": 64}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)
    tiny.shake(CLIPModel(config), 5, 1.7).save_pretrained(tmp_path)
    upstream = CLIPVisionModelWithProjection.from_pretrained(tmp_path, dtype=dtype).eval()
    ours = load_model(ModelSpec("t", hf=str(tmp_path), kwargs=vision), dtype=name_of(dtype)).model

    def features(pixels: Tensor) -> Tensor:
        return upstream(pixel_values=pixels).image_embeds

    _same(ours, upstream, tiny.images(1, 378).to(dtype), features)


def _same(
    ours: nn.Module, upstream: nn.Module, pixels: Tensor, run: Callable[..., Tensor] | None = None
) -> None:
    assert sorted(buffers(ours).values(), key=str) == sorted(buffers(upstream).values(), key=str)
    with torch.no_grad():
        expected = (run or upstream)(pixels)
        assert torch.equal(ours(pixels), expected)
        with asap_eval.reduce(ours, "none"):
            assert torch.equal(ours(pixels), expected)
