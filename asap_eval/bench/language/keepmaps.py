"""What a method keeps of one picture on the way to an answer, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize

from asap_eval.bench.patches import as_pictures
from asap_eval.errors import BadValueError
from asap_eval.hosts import install
from asap_eval.hosts.tiles import tiles_of
from asap_eval.method import Reducer, build_from
from asap_eval.models import LoadedVlm
from asap_eval.packing import Newline


@dataclass(frozen=True)
class Kept:
    """One stage of a method on one sample.

    Attributes:
        sample: its id. grid: patches of a crop, down and across.
        names: of its crops: the base, then LLaVA-NeXT's tiles. images: those as the model saw them.
        source: ``[C, P]`` slot of each patch in its crop's sequence, class token included; patches
            that were pooled share a slot, -1 = dropped. Crop 0 is the base.
        notes: what the method wants to show (`Trace.notes`), ``[C]`` or ``[C, P]``.
        fired: ``[C]`` block (from 1) that reduced the crop, 0 = never.
        language: ``[T]`` the same as ``source`` in the prompt, for the image tokens handed over.
        language_fired: layer of the language model that reduced them, 0 = never.
        answer: the model's.
    """

    sample: str
    grid: tuple[int, int]
    names: Sequence[str]
    images: Sequence[Image.Image]
    source: Tensor
    notes: Mapping[str, Tensor]
    fired: Tensor
    language: Tensor
    language_fired: int
    answer: str

    @property
    def sink(self) -> Tensor | None:
        """``[C]`` patch that is the anchor, -1 = none; None for a method without."""
        return self.notes.get("sink")

    @property
    def slots(self) -> Tensor:
        """``[C, P]`` slot of each patch at the end: in the language model, if it lost any there.

        Raises:
            BadValueError: image tokens that were lost there are no patches.
        """
        if not self.language_fired:
            return self.source
        if len(self.names) > 1 or self.language[None].shape != self.source.shape:
            raise BadValueError(
                "This method acts in the language model, where the image tokens of tiles, or of a "
                "reduced tower, are no patches any more. Use a LLaVA-1.5 model."
            )
        return self.language[None]


def stages_of(method: str, k: float | None, params: Mapping[str, Any]) -> dict[str, Reducer]:
    """The stages of a method by name.

    A method that cuts what it left to a number of tokens, its option ``n``, has two: without that
    option (of ASAP: what is pooled) and with it. Any other has one.
    """
    whole = build_from(method, params, k)
    if params.get("n") is None:
        return {method: whole}
    first = build_from(method, {**params, "n": None}, k)
    return {f"{method}, first stage": first, f"{method}, n={params['n']}": whole}


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

    Args:
        stages: methods by the name of a stage, see `stages_of`. sample: id that random choices
            derive from, as in a record's rows. picture: RGB. prompt: as the task asks it. seed: of
            the run.
    """
    found = {}
    for name, reducer in stages.items():
        given = vlm.inputs([picture], [prompt])
        with install(vlm.model, reducer, seed=seed, newline=newline) as trace:
            trace.name_images([sample])
            trace.name_questions([prompt])
            with torch.inference_mode():
                out = vlm.model.generate(**given, max_new_tokens=new_tokens, do_sample=False)
        names = _names(vlm, given)
        found[name] = Kept(
            sample=sample,
            grid=_grid(vlm),
            names=names,
            images=_images(vlm, given["pixel_values"], len(names)),
            source=trace.source.cpu(),
            notes={note: values.cpu() for note, values in trace.notes.items()},
            fired=trace.fired.cpu(),
            language=trace.language.source[0].cpu(),
            language_fired=int(trace.language.fired[0]),
            answer=vlm.texts(out[:, given["input_ids"].shape[1] :])[0],
        )
    return found


def _grid(vlm: LoadedVlm) -> tuple[int, int]:
    vision = vlm.model.config.vision_config
    side = vision.image_size // vision.patch_size
    return side, side


def _names(vlm: LoadedVlm, given: Mapping[str, Any]) -> list[str]:
    """``whole``, and the places of LLaVA-NeXT's tiles."""
    if "image_sizes" not in given:
        return ["whole"]
    down, across = tiles_of(vlm.model.config, given["image_sizes"][0])
    tiles = [f"tile {row + 1}, {at + 1}" for row in range(down) for at in range(across)]
    return ["whole", *tiles]


def _images(vlm: LoadedVlm, pixels: Tensor, crops: int) -> list[Image.Image]:
    images = vlm.processor.image_processor
    transform = Compose([Normalize(images.image_mean, images.image_std)])
    return as_pictures(pixels.flatten(0, -4)[:crops].float().cpu(), transform)
