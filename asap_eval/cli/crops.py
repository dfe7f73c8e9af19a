"""What a method keeps of one picture inside a vision-language model: a keep-map for every crop."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from asap_eval.bench.language.keepmaps import Kept, keep_maps
from asap_eval.bench.patches import fates_of
from asap_eval.data.decoding import decode_file
from asap_eval.errors import DataError
from asap_eval.files.archive import AnyPath
from asap_eval.method import build_from
from asap_eval.models import ModelSpec, load_vlm
from asap_eval.report.pictures.keep_map import KeepMap

QUESTION = "What is in this picture?"
"""Asked where a method reads the prompt too."""


def crop_maps(
    path: AnyPath,
    model: str | ModelSpec,
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
    stages, picture = {method: build_from(method, params or {}, k)}, _opened(path)
    vlm = load_vlm(model, weights=weights)
    found = keep_maps(vlm, stages, path.name, picture, QUESTION, seed=seed, new_tokens=1)
    return maps_of(found[method])


def maps_of(kept: Kept) -> list[KeepMap]:
    """A keep-map of every crop.

    Raises:
        BadValueError: see `Kept.slots`.
    """
    slots = kept.slots
    absent = torch.full((len(slots),), -1)
    sinks = (absent if kept.sink is None else kept.sink).tolist()
    return [
        KeepMap(
            image,
            kept.grid,
            fates,
            own,
            sink if sink >= 0 else None,
            f"{name}: {fates.count(0)} of {len(fates)}",
        )
        for image, own, fates, sink, name in zip(
            kept.images, slots.tolist(), fates_of(slots).tolist(), sinks, kept.names, strict=True
        )
    ]


def _opened(path: AnyPath) -> Image.Image:
    try:
        return decode_file(path)
    except DataError as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from error
