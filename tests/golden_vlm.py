"""Files of golden/vlm beside the checkout, as golden tests of several methods read them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from project import SHARED
from safetensors.torch import load_file
from torch import Tensor

import asap_eval
from asap_eval.packing import Crops
from asap_eval.trace import Trace

FOLDER = "golden/vlm"
FEATURES, LOGITS = 1e-4, 1e-3
"""Absolute tolerances of the folder's README; indices and masks are compared exactly."""


def files(method: str, pattern: str, *common: str) -> pytest.MarkDecorator:
    """Parametrizes a test by ``stem``, one case per file, marked with it and with common inputs."""
    stems = sorted(path.stem for path in SHARED.glob(f"{FOLDER}/{method}/{pattern}.safetensors"))
    cases = [
        pytest.param(
            stem,
            marks=pytest.mark.golden(
                *(f"{FOLDER}/{name}.safetensors" for name in (f"{method}/{stem}", *common))
            ),
        )
        for stem in stems or [pattern]
    ]
    return pytest.mark.parametrize("stem", cases)


def read(name: str) -> dict[str, Tensor]:
    """The tensors of one file, by its path under golden/vlm without the suffix."""
    return load_file(SHARED / FOLDER / f"{name}.safetensors")


def close(got: Tensor, expected: Tensor, tolerance: float = FEATURES) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


def inputs(stem: str) -> dict[str, Tensor]:
    """``cls_attn [B, H, N]``, ``hidden [B, N, D]`` and ``key_mean [B, N, d]`` that a function-level
    file was made from; its name says which."""
    return read("common/" + "_".join(stem.split("_")[1:3]))


def project(x: Tensor) -> Tensor:
    """The golden models' projector, ``[..., 32] -> [..., 32]``; both models share it."""
    weights = read("host/llava/model")
    first, second = (f"multi_modal_projector.linear_{i}" for i in (1, 2))
    hidden = F.gelu(F.linear(x, weights[f"{first}.weight"], weights[f"{first}.bias"]))
    return F.linear(hidden, weights[f"{second}.weight"], weights[f"{second}.bias"])


def crops(kept: Tensor, tokens: int, stem: str) -> Crops:
    """What a method packs, of the tiles that a file's name tells.

    Args:
        kept: ``[C, n]`` patches of the slots 1 .. n of each crop, slot 0 being the class token.
        tokens: tokens of a crop; slots after n hold no patch.
    """
    count = len(kept)
    source = torch.full((count, 576), -1)
    source.scatter_(1, kept, torch.arange(1, kept.shape[1] + 1).expand_as(kept))
    rows, columns = (int(n) for n in stem.split("_")[2].split("x"))
    return Crops(
        crop=torch.arange(count).repeat_interleave(tokens),
        slot=torch.arange(tokens).repeat(count),
        source=source,
        grid=(24, 24),
        tiles=(rows, columns),
        padding=(0, 0),
    )


# --- the golden models ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a golden model does with a method.

    Attributes:
        logits: ``[V]`` after the prompt. hidden: ``[D]`` what they are made from.
        ids: ``[T]`` greedy tokens. embeds: ``[n, D]`` image tokens handed to the language model.
        trace: of the same prompt.
    """

    logits: Tensor
    hidden: Tensor
    ids: Tensor
    embeds: Tensor
    trace: Trace


@functools.cache
def model(name: str) -> Any:
    """``llava`` or ``llava_next`` of golden/vlm/host."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(SHARED / FOLDER / "host" / name).eval()


@torch.no_grad()
def answer(
    images: str, tokens: int, method: str, questions: list[str] | None = None, **options: Any
) -> Answer:
    """A method on the golden prompt.

    Args:
        images: ``pixels15`` (its first image), ``next_2x2`` or ``next_1x2``. tokens: to generate.
        questions: for methods that read them.
    """
    given, tiled = read("host/inputs"), images.startswith("next")
    llava = model("llava_next" if tiled else "llava")
    name = f"pixels_{images}" if tiled else images
    pixels = given[f"{name}_lowres"].repeat_interleave(8, -1).repeat_interleave(8, -2)
    ids = torch.cat([given["ids_pre"], torch.tensor([127]), given["ids_post"]])[None]
    call: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    call["pixel_values"] = pixels[None] if tiled else pixels[:1]
    if tiled:
        call["image_sizes"] = given[f"image_size_{images[5:]}_hw"][None]
    seen: list[Tensor] = []
    hook = llava.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with asap_eval.reduce(llava, method, **options) as trace:
        if questions is not None:
            trace.name_questions(questions)
        features = llava.model.get_image_features(
            **{key: call[key] for key in ("pixel_values", "image_sizes") if key in call}
        )
        if questions is not None:
            trace.name_questions(questions)
        out = llava.generate(
            **call,
            max_new_tokens=tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    hook.remove()
    new = out.sequences[0, ids.shape[1] :]
    return Answer(out.logits[0][0], seen[0][0, -1], new, features.pooler_output[0], trace)


def compare(golden: dict[str, Tensor], got: Answer, ids: str = "greedy_ids") -> None:
    """Image embeddings, logits and text; an id in front of the golden text is the prompt's BOS."""
    if "image_embeds" in golden:
        close(got.embeds, golden["image_embeds"])
    close(got.logits, golden["last_logits"], LOGITS)
    assert torch.equal(got.ids, golden[ids][-len(got.ids) :])
