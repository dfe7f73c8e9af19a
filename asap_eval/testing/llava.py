"""The project's small LLaVA models with pictures and questions of different sizes.

They need the extra ``vlm``.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import asap_eval
from asap_eval.models import LoadedVlm, load_vlm
from asap_eval.trace import Trace

NAMES = ("llava_tiny", "llava_next_tiny")

SIZES = ((300, 200), (150, 400), (250, 250), (90, 400))
"""Height and width: in LLaVA-NeXT grids of 2 x 1, 1 x 2, 2 x 2 and 1 x 3 tiles, some padded."""
QUESTIONS = (
    "What is this?",
    "Is there a dog in the image?",
    "Hi",
    "How many cats can you see here?",
)


@functools.cache
def vlm(name: str, dtype: str = "float32") -> LoadedVlm:
    loaded = load_vlm(name, dtype="float32" if dtype == "float64" else dtype)
    if dtype == "float64":
        loaded.model.double()
        _norms_in_double(loaded.model)
    return loaded


def _norms_in_double(model: nn.Module) -> None:
    """Llama's own norms round a double to fp32, where its last bit decides about a float's."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, LlamaRMSNorm):
                exact = nn.RMSNorm(norm.weight.shape[0], norm.variance_epsilon, dtype=torch.float64)
                exact.weight = norm.weight
                setattr(parent, name, exact)


@functools.cache
def pictures() -> list[Image.Image]:
    """Noise with structure: ten pixels a cell."""
    rng = np.random.default_rng(0)
    cells = [rng.integers(0, 255, (h // 10, w // 10, 3), dtype=np.uint8) for h, w in SIZES]
    pairs = zip(cells, SIZES, strict=True)
    return [Image.fromarray(cell).resize((w, h)) for cell, (h, w) in pairs]


def inputs(name: str, *samples: int, dtype: str = "float32") -> dict[str, Any]:
    """The model's keywords for some samples; without a number for the first three."""
    chosen = samples or (0, 1, 2)
    loaded = vlm(name, dtype)
    return loaded.inputs([pictures()[i] for i in chosen], [QUESTIONS[i] for i in chosen])


def generate(loaded: LoadedVlm, given: dict[str, Any], tokens: int = 6) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model.generate(**given, max_new_tokens=tokens, do_sample=False)


def logits(loaded: LoadedVlm, given: dict[str, Any]) -> torch.Tensor:
    """``[S, V]`` after each prompt, from `generate`: a plain `forward` counts positions from the
    padding on, and rotary angles in fp32 then differ between a batch and its samples."""
    return logits_and_ids(loaded, given, 1)[0]


def logits_and_ids(
    loaded: LoadedVlm, given: dict[str, Any], tokens: int = 6
) -> tuple[torch.Tensor, torch.Tensor]:
    """`logits` and `generate` in one run."""
    with torch.no_grad():
        out = loaded.model.generate(
            **given,
            max_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return out.logits[0], out.sequences


def reduced(
    name: str, method: str, *samples: int, dtype: str = "float32", **options: Any
) -> tuple[torch.Tensor, torch.Tensor, Trace]:
    """Logits after the prompts, generated ids, and the trace."""
    loaded, given = vlm(name, dtype), inputs(name, *samples, dtype=dtype)
    with asap_eval.reduce(loaded.model, method, **options) as trace:
        trace.name_questions([QUESTIONS[number] for number in samples or (0, 1, 2)])
        return *logits_and_ids(loaded, given), trace
