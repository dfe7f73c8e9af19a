"""What a method keeps of one picture inside a vision-language model: a keep-map for every crop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize

from asap_eval.bench.fates import fates_of
from asap_eval.bench.seen import seen
from asap_eval.errors import BadValueError, DataError
from asap_eval.hosts import geometry_of, install
from asap_eval.hosts.tiles import tiles_of
from asap_eval.method import build
from asap_eval.models import load_vlm
from asap_eval.report.keep_map import KeepMap
from asap_eval.trace import Trace

QUESTION = "What is in this picture?"
"""Asked where a method reads the prompt too."""


def crop_maps(
    path: Path,
    model: str,
    method: str,
    *,
    weights: str | None = None,
    k: float | None = None,
    seed: int = 0,
    params: dict[str, Any] | None = None,
) -> list[KeepMap]:
    """What a method did to the patches of a picture: the whole one, then LLaVA-NeXT's tiles.

    Args:
        model, weights: as for `load_vlm`. k, params: of the method. seed: of its random choices.

    Raises:
        AsapEvalError: a picture, model or option that cannot be used; a method in the language
            model of LLaVA-NeXT, where image tokens are no longer patches.
    """
    vlm = load_vlm(model, weights=weights)
    given = vlm.inputs([_opened(path)], [QUESTION])
    reducer = build(method, k=k, **(params or {}))
    with torch.inference_mode(), install(vlm.model, reducer, seed=seed) as trace:
        trace.name_images([path.name])
        vlm.model.generate(**given, max_new_tokens=1, do_sample=False)
    slots = _slots(trace, tiled="image_sizes" in given)
    pixels = given["pixel_values"].flatten(0, -4)[: len(slots)].float().cpu()
    images = vlm.processor.image_processor
    shown = seen(pixels, Compose([Normalize(images.image_mean, images.image_std)]))
    names = ["whole"]
    if "image_sizes" in given:
        down, across = tiles_of(vlm.model.config, given["image_sizes"][0])
        names += [f"tile {row + 1}, {at + 1}" for row in range(down) for at in range(across)]
    grid = geometry_of(vlm.model.model.vision_tower).grid
    sinks = trace.notes.get("sink", torch.full((len(slots),), -1)).tolist()
    return [
        KeepMap(
            image,
            grid,
            fates,
            own,
            sink if sink >= 0 else None,
            f"{name}: {fates.count(0)} of {len(fates)}",
        )
        for image, own, fates, sink, name in zip(
            shown, slots.tolist(), fates_of(slots).tolist(), sinks, names, strict=True
        )
    ]


def _slots(trace: Trace, *, tiled: bool) -> Tensor:
    """``[C, P]`` slot of each patch; that in the language model, where it lost any there."""
    tower, language = trace.source.cpu(), trace.language.source.cpu()
    if not bool((trace.language.fired > 0).any()):
        return tower
    if tiled or language.shape != tower.shape:
        raise BadValueError(
            "This method acts in the language model, where the image tokens of tiles, or of a "
            "reduced tower, are no patches any more. Use a LLaVA-1.5 model."
        )
    return language


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from error
