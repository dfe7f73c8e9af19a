"""The tower of `reduction_cost.py`, and methods in it, on its output or on its input."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cost_rows import USED, Contender
from cost_sections import Sections, milliseconds
from cost_watch import rounds_of
from PIL import Image
from torch import Tensor, nn

from asap_eval.files.tensors import save_tensors
from asap_eval.hosts import backbone_of, hf_clip
from asap_eval.hosts.backbone import Backbone, Behind
from asap_eval.hosts.seam import Seam
from asap_eval.method import Reducer, build, method_class
from asap_eval.methods.parts.learned import Learned
from asap_eval.methods.parts.predictors import FORMAT, numbered
from asap_eval.methods.spot import STATISTICS, Spot
from asap_eval.models import model_specs
from asap_eval.models.llava import fill
from asap_eval.models.vlm import PEAK, SEED
from asap_eval.options import options as method_options
from asap_eval.testing.clip import Shape, write_clip
from asap_eval.timing.speed import fastest_unpruned

QUESTION = "Is there a dog in the picture? Answer yes or no."
"""What methods that read it are asked: one segment of CLIP's 77 tokens."""


def tower_of(options: argparse.Namespace) -> Backbone:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(**model_specs()[options.model].kwargs["vision"])
    model: Any = CLIPVisionModel._from_config(config, attn_implementation="sdpa")
    fill(model.eval().requires_grad_(False), SEED, PEAK)
    return backbone_of(model.to(options.device, getattr(torch, options.dtype)))


def pixels_of(options: argparse.Namespace, tower: Backbone) -> Tensor:
    """``[crops, 3, H, W]`` of the photograph, or noise of cells as large as a patch."""
    height, width = tower.image_size
    if options.image is None:
        cells = np.random.default_rng(0).integers(0, 255, (*tower.geometry.grid, 3), dtype=np.uint8)
        picture = Image.fromarray(cells)
    else:
        picture = Image.open(options.image).convert("RGB")
    resized = np.array(picture.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = torch.from_numpy(resized / 127.5 - 1).permute(2, 0, 1)
    return pixels.repeat(options.crops, 1, 1, 1).to(options.device, getattr(torch, options.dtype))


def forward_ms(tower: Backbone, pixels: Tensor) -> float:
    """Of the fastest unpruned tower: with the attention kernel that methods run with."""
    with Seam(tower, fastest_unpruned(pixels), 0):
        return milliseconds(lambda: tower.model(pixels), pixels.device)


def _outer(tower: Backbone) -> Any:
    """The module that holds embeddings and the norm before the blocks."""
    model: Any = tower.model
    return getattr(model, "vision_model", model)


def _embedded(tower: Backbone, pixels: Tensor) -> Tensor:
    outer = _outer(tower)
    return outer.pre_layrnorm(outer.embeddings(pixels))


def states_of(tower: Backbone, pixels: Tensor) -> list[Tensor]:
    """``[crops, 577, 1024]`` input of every used block, and the output of the last."""
    states = [_embedded(tower, pixels)]
    for block in tower.blocks[:USED]:
        states.append(block(states[-1], None))
    return states


def measure(
    options: argparse.Namespace,
    contender: Contender,
    tower: Backbone,
    pixels: Tensor,
    states: list[Tensor],
    folder: Path,
) -> dict[str, Any]:
    """One row.

    Args:
        states: see `states_of`. folder: for seeded predictors.
    """
    first = USED - contender.looks if method_class(contender.method).site == "output" else 0
    blocks = tower.blocks[first : contender.blocks]
    geometry = replace(tower.geometry, blocks=tower.geometry.blocks[first : contender.blocks])
    behind = _behind(tower, projected(options, states[USED][:, 1:]))
    part = replace(tower, blocks=blocks, geometry=geometry, behind=behind)
    reducer = _built(contender, part, folder)
    sections = Sections(pixels.device)
    names = [str(crop) for crop in range(options.crops)]
    resampled = sections.around(
        _outer(tower).embeddings, "interpolate_pos_encoding", "position embedding resampled"
    )
    seam = Seam(part, reducer, 0)
    with resampled, seam as trace:

        def step() -> None:
            trace.name_images(names)
            seam.expect(torch.zeros(options.crops, dtype=torch.long), (QUESTION,))
            x = _embedded(tower, pixels) if reducer.site == "input" else states[first]
            with seam.unread():
                for block in blocks:
                    x = block(x, None)

        row = rounds_of(contender, reducer, pixels.device, options.rounds, sections, step)
    return row | {"kept": (trace.lengths[-1] - 1).tolist(), "site": reducer.site}


def projected(options: argparse.Namespace, patches: Tensor) -> Tensor:
    """``[crops, P, D]`` patches of the tower through a seeded projector of LLaVA's shape."""
    width = model_specs()[options.model].kwargs["text"]["hidden_size"]
    projector = nn.Sequential(
        nn.Linear(patches.shape[-1], width), nn.GELU(), nn.Linear(width, width)
    ).requires_grad_(False)
    fill(projector, SEED, 1.0)
    return projector.to(patches)(patches)


def _behind(tower: Backbone, image: Tensor) -> Behind:
    """The projector and the block that LLaVA leaves unused.

    Args:
        image: what the projector makes of the patches; it runs on all of them in the unpruned
            model, too, so that its time is no cost of a method.
    """
    return Behind(
        projector=lambda _: image,
        next_token=hf_clip.queries_and_keys_macs(tower.blocks[USED]),
        queries_and_keys=partial(hf_clip.queries_and_keys, tower.blocks[USED]),
    )


def _built(contender: Contender, part: Backbone, folder: Path) -> Reducer:
    """The method; predictors and CLIP's text tower are seeded: what they cost is not what they
    say."""
    params, cls = contender.params, method_class(contender.method)
    if issubclass(cls, Learned):
        params = params | {"checkpoint": seeded_predictors(contender.method, part, folder)}
    if "clip" in {name for name, _, _ in method_options(cls)}:
        params = params | {"clip": seeded_clip(part, folder)}
    return build(contender.method, k=contender.k, **params)


def seeded_clip(part: Backbone, folder: Path) -> str:
    """A checkpoint with the text tower that belongs to a tower: beside ViT-L/14's 1024 channels 12
    layers of 768, read 77 tokens at once."""
    width = 3 * part.geometry.width // 4
    shape = Shape(
        image=part.geometry.width,
        text=width,
        heads=max(1, width // 64),
        mlp=4 * width,
        layers=12,
        context=77,
        joint=width,
    )
    return write_clip(folder / "clip", shape, SEED)


def seeded_predictors(method: str, part: Backbone, folder: Path) -> str:
    """A checkpoint of untrained predictors for a tower, as training would save trained ones."""
    reducer, model = build(method), part.model
    assert isinstance(reducer, Learned)
    values = [part.geometry.width]
    if isinstance(reducer, Spot):
        heads = model.config.num_attention_heads  # type: ignore[union-attr]
        values.append(STATISTICS * heads * reducer.history)  # type: ignore[operator]
    inputs = (torch.ones(1, 1), *(torch.zeros(1, 1, n) for n in values))
    places = reducer.places(len(part.blocks))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        predictors = {place: reducer.untrained(inputs) for place in places}
    out = folder / f"{method}.safetensors"
    said = {"method": method, "blocks": json.dumps(places), "training": "none: seeded, for timing"}
    save_tensors(numbered(predictors), out, {"format": FORMAT, **said})
    return str(out)
