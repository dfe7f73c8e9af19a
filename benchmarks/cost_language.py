"""The language model of `reduction_cost.py`: a few layers of its real width, and methods in it."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from cost_rows import Contender
from cost_sections import Sections, milliseconds
from cost_tower import projected
from cost_watch import new_positions, rounds_of
from torch import Tensor

from asap_eval.hosts.image_tokens import Packed
from asap_eval.hosts.llama import LanguageSeam
from asap_eval.hosts.prompts import Prompts
from asap_eval.method import build
from asap_eval.models import model_specs
from asap_eval.models.llava import fill
from asap_eval.models.vlm import PEAK, SEED
from asap_eval.trace import Trace

TEXT = (35, 25)
"""Tokens before and behind the image: as LLaVA's prompt has them on a short question."""

TIMED = 2
"""Layers whose forward is timed beside every row."""


@dataclass
class Language:
    """Layers of a language model and a prompt for them.

    Attributes:
        text: a `LlamaModel` of a few layers. embeds: ``[1, N, D]``. prompts: where its image is.
        image: which patches its tokens are, with seeded class attention. depth: layers of the whole
            model.
    """

    text: Any
    embeds: Tensor
    prompts: Prompts
    image: Packed
    depth: int


def language_of(options: argparse.Namespace, layers: int, patches: Tensor) -> Language:
    """Layers with the same seeded weights, drawn where they are to run, and a prompt.

    Args:
        patches: ``[crops, P, D]`` of the tower; a seeded projector makes image tokens of them.
    """
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    shape = model_specs()[options.model].kwargs["text"]
    text = _layers(shape, layers, device, dtype)
    width = shape["hidden_size"]
    image = projected(options, patches).flatten(0, 1)
    words = torch.randn(sum(TEXT), width, generator=torch.Generator().manual_seed(SEED)) * 0.7
    front, behind = words.to(device, dtype).split(TEXT)
    embeds = torch.cat([front, image, behind])[None]
    count = embeds.shape[1]
    prompts = Prompts(
        ids=torch.zeros(1, count, dtype=torch.long, device=device),
        mask=torch.ones(1, count, dtype=torch.long, device=device),
        start=torch.tensor([TEXT[0]], device=device),
        count=torch.tensor([len(image)], device=device),
    )
    return Language(text, embeds, prompts, _packed(patches), shape["num_hidden_layers"])


def _packed(patches: Tensor) -> Packed:
    """Crops one behind the other, no newlines; ``patches`` is ``[crops, P, D]``."""
    crops, count = patches.shape[:2]
    side = round(count**0.5)
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).repeat(crops, 1)
    rows = torch.rand(16, crops * count, generator=torch.Generator().manual_seed(SEED))
    return Packed(
        crop=torch.arange(crops, device=patches.device).repeat_interleave(count),
        place=place.to(patches.device),
        cls_row=rows.to(patches),
    )


def _layers(shape: dict[str, Any], layers: int, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import LlamaConfig, LlamaModel

    # Prompts come embedded: no vocabulary is needed.
    few = {"num_hidden_layers": layers, "vocab_size": 8, "pad_token_id": 0}
    config = LlamaConfig(**{**shape, **few})
    with torch.device("meta"):
        text: Any = LlamaModel._from_config(config, attn_implementation="sdpa")
    text = text.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    # Computed when a model is made, of which the meta device has nothing.
    text.rotary_emb = type(text.rotary_emb)(config).to(device)
    first, *others = text.layers
    fill(first, SEED, PEAK, device)
    for layer in others:  # what a layer costs is the same whatever its weights
        layer.load_state_dict(first.state_dict())
    text.norm.weight.fill_(1)
    return text


def layer_ms(language: Language) -> list[float]:
    """Milliseconds of unpruned layers over the whole prompt, each alone."""
    text, x = language.text, language.embeds
    position = torch.arange(x.shape[1], device=x.device)[None]
    given = {"position_ids": position, "position_embeddings": text.rotary_emb(x, position)}
    steps = [functools.partial(layer, x, **given) for layer in text.layers[:TIMED]]
    return [milliseconds(step, x.device) for step in steps]


@contextmanager
def _cut(text: Any, layers: int) -> Iterator[None]:
    """The model with its first layers alone."""
    whole = text.layers
    text.layers, text.config.num_hidden_layers = whole[:layers], layers
    try:
        yield
    finally:
        text.layers, text.config.num_hidden_layers = whole, len(whole)


def measure(
    options: argparse.Namespace, contender: Contender, language: Language
) -> dict[str, Any]:
    """One row."""
    reducer = build(contender.method, k=contender.k, **contender.params)
    text, prompts = language.text, language.prompts
    device = language.embeds.device
    trace = Trace()
    trace.start(0, torch.zeros(1, 0, dtype=torch.long, device=device))
    trace.hand_over(torch.zeros(1, device=device), prompts.count, prompts.count)
    sections = Sections(device)
    with _cut(text, contender.layers):
        seam = LanguageSeam(text, reducer, trace, 0)
        with seam, new_positions(sections, text, seam):

            def step() -> None:
                seam.expect([language.image])
                seam.begin(prompts)
                text(inputs_embeds=language.embeds, use_cache=True)

            row = rounds_of(contender, reducer, device, options.rounds, sections, step)
    words = prompts.lengths - prompts.count
    return row | {
        "kept": (trace.language.lengths[-1] - words).tolist(),
        "site": reducer.site,
        "layers": contender.layers,
    }
