"""LLaVA models of the shared data through the host, and ToMe's matching at CLIP's shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from project import SHARED
from safetensors.torch import load_file
from tiny_llava import generate
from torch import Tensor

import asap_eval
from asap_eval.methods.parts.matching import match, removable
from asap_eval.models import LoadedVlm, ModelSpec, load_vlm
from asap_eval.tokens import Reduction, Tokens

TOME = sorted(path.stem for path in SHARED.glob("golden/vlm/tome/*.safetensors")) or ["fn"]
CASES = [
    pytest.param(s, marks=pytest.mark.golden(f"golden/vlm/tome/{s}.safetensors")) for s in TOME
]


@pytest.mark.parametrize("stem", CASES)
def test_tome_at_clips_shapes(stem: str, shared: Path) -> None:
    """With the class token, size-weighted; r beyond half of the tokens is cut to half."""
    golden = load_file(shared / f"golden/vlm/tome/{stem}.safetensors")
    x, size, r = golden["x"], golden["size"][..., 0], int(golden["r"])
    removed = x.shape[1] - golden["out"].shape[1]
    assert removable(x.shape[1], 1, r) == removed
    group = match(golden["metric"][:, None], r, prefix=1)
    got = Tokens(x, size, Tokens.start(x, 0).source, 0).apply(Reduction(group))
    torch.testing.assert_close(got.x, golden["out"], rtol=0, atol=1e-4)
    torch.testing.assert_close(got.size, golden["out_size"][..., 0], rtol=0, atol=1e-4)


def same_with_none(model: Any, **given: Tensor) -> Tensor:
    """Untouched and through the host: the same bits and the same text, which are returned."""
    loaded = LoadedVlm(model, None, "", None, None)  # type: ignore[arg-type]
    with torch.no_grad():
        plain, ids = model(**given).logits, generate(loaded, given)
        with asap_eval.reduce(model, "none") as trace:
            assert torch.equal(model(**given).logits, plain)
            assert torch.equal(generate(loaded, given), ids)
    placeholders = given["input_ids"] == model.config.image_token_id
    assert torch.equal(trace.handed_to_llm, placeholders.sum(1))
    return ids


@pytest.mark.golden("golden/vlm/tiny_host/llava/*")
def test_tiny_llava_with_its_processor(shared: Path) -> None:
    _folder("llava", shared / "golden/vlm/tiny_host/llava", [16, 16])


@pytest.mark.golden("golden/vlm/tiny_host/llava_next/*")
def test_tiny_llava_next_with_its_processor(shared: Path) -> None:
    _folder("llava_next", shared / "golden/vlm/tiny_host/llava_next", [70, 70])


def _folder(family: str, path: Path, counts: list[int]) -> None:
    from PIL import Image

    loaded = load_vlm(ModelSpec("golden", family=family), weights=path)
    pictures = [
        Image.effect_mandelbrot((130, 90), (-2, -1.5, 1, 1.5), q).convert("RGB") for q in (5, 9)
    ]
    text = ["<s>USER: <image>\nWhat? ASSISTANT:", "<s>USER: <image>\nIs it a set? ASSISTANT:"]
    made = loaded.processor(
        images=pictures, text=text, padding=True, return_tensors="pt", add_special_tokens=False
    )
    names = ("input_ids", "attention_mask", "pixel_values", "image_sizes")
    given = {name: made[name] for name in names if name in made}
    assert (given["input_ids"] == 3).sum(1).tolist() == counts
    same_with_none(loaded.model, **given)


@pytest.mark.golden("golden/vlm/host/llava/*", "golden/vlm/host/inputs.safetensors")
def test_host_llava(shared: Path) -> None:
    """336 px, 24 blocks: the untouched model's bits, one image and two in a batch."""
    from transformers import LlavaForConditionalGeneration

    golden = load_file(shared / "golden/vlm/host/inputs.safetensors")
    model = LlavaForConditionalGeneration.from_pretrained(
        shared / "golden/vlm/host/llava", attn_implementation="sdpa"
    ).eval()
    pixels = _pixels(golden["pixels15_lowres"])
    ids = _prompt(golden, 576).repeat(2, 1)
    both = same_with_none(
        model, input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels
    )
    one = same_with_none(
        model, input_ids=ids[:1], attention_mask=torch.ones_like(ids[:1]), pixel_values=pixels[:1]
    )
    assert torch.equal(one[0], both[0])


@pytest.mark.golden("golden/vlm/host/llava_next/*", "golden/vlm/host/inputs.safetensors")
@pytest.mark.parametrize(("grid", "count"), [("2x2", 2830), ("1x2", 1654)])
def test_host_llava_next(shared: Path, grid: str, count: int) -> None:
    """Base crop, tiles, unpadding and newlines of the untouched model."""
    from transformers import LlavaNextForConditionalGeneration

    golden = load_file(shared / "golden/vlm/host/inputs.safetensors")
    model = LlavaNextForConditionalGeneration.from_pretrained(
        shared / "golden/vlm/host/llava_next", attn_implementation="sdpa"
    ).eval()
    ids = _prompt(golden, count)
    same_with_none(
        model,
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=_pixels(golden[f"pixels_next_{grid}_lowres"])[None],
        image_sizes=golden[f"image_size_{grid}_hw"][None],
    )


def _pixels(low: Tensor) -> Tensor:
    return low.repeat_interleave(8, -1).repeat_interleave(8, -2)


def _prompt(golden: dict[str, Tensor], count: int) -> Tensor:
    image = torch.full((count,), 127)
    return torch.cat([golden["ids_pre"], image, golden["ids_post"]])[None]
