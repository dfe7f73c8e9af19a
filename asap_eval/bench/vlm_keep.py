"""What a method keeps of one picture on the way to an answer, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asap_eval.hosts import install
from asap_eval.method import Reducer
from asap_eval.models import LoadedVlm
from asap_eval.packing import Newline


@dataclass(frozen=True)
class Kept:
    """One stage of a method on one sample.

    Attributes:
        sample: its id. grid: patches of a crop, down and across.
        source: ``[C, P]`` slot of each patch in its crop's sequence, class token included; patches
            that were pooled share a slot, -1 = dropped. Crop 0 is the base.
        sink: ``[C]`` patch that is the anchor, -1 = none; None for a method without.
        fired: ``[C]`` block (from 1) that reduced the crop, 0 = never.
        language: ``[T]`` the same as ``source`` in the prompt, for the image tokens handed over.
        answer: the model's.
    """

    sample: str
    grid: tuple[int, int]
    source: Tensor
    sink: Tensor | None
    fired: Tensor
    language: Tensor
    answer: str


def keep_maps(
    vlm: LoadedVlm,
    stages: Mapping[str, Reducer],
    sample: str,
    picture: Any,
    prompt: str,
    *,
    seed: int = 0,
    newline: Newline = "kept",
    new_tokens: int = 16,
) -> dict[str, Kept]:
    """Every stage by its name, each a run of its own.

    The stages of ASAP to 64 tokens are the method without ``n`` (what is pooled) and with it.

    Args:
        stages: methods by the name of a stage. sample: id that random choices derive from, as in a
            record's rows. picture: RGB. prompt: as the task asks it. seed: of the run.
    """
    found = {}
    for name, reducer in stages.items():
        given = vlm.inputs([picture], [prompt])
        with install(vlm.model, reducer, seed=seed, newline=newline) as trace:
            trace.name_images([sample])
            with torch.inference_mode():
                out = vlm.model.generate(**given, max_new_tokens=new_tokens, do_sample=False)
        found[name] = Kept(
            sample=sample,
            grid=_grid(vlm),
            source=trace.source.cpu(),
            sink=trace.notes["sink"].cpu() if "sink" in trace.notes else None,
            fired=trace.fired.cpu(),
            language=trace.language.source[0].cpu(),
            answer=vlm.texts(out[:, given["input_ids"].shape[1] :])[0],
        )
    return found


def _grid(vlm: LoadedVlm) -> tuple[int, int]:
    vision = vlm.model.config.vision_config
    side = vision.image_size // vision.patch_size
    return side, side
