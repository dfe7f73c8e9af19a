"""``asap-eval strip``: pictures of what a method keeps of the frames of a video.

Of a picture and a vision-language model such as LLaVA it draws the crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from asap_eval.bench.patches import as_pictures, fates_of
from asap_eval.cli import measured
from asap_eval.cli.crops import crop_maps
from asap_eval.cli.words import command
from asap_eval.data.decoding import EXTENSIONS
from asap_eval.data.videos.decode import Frame, read_frames
from asap_eval.data.videos.loader import frame_id
from asap_eval.data.videos.sampling import Sampling
from asap_eval.errors import BadValueError, DataError
from asap_eval.files.archive import path_of
from asap_eval.hosts import geometry_of, install
from asap_eval.method import build_from, method_class
from asap_eval.models import ModelSpec, load_model
from asap_eval.models.spec import with_options
from asap_eval.plugins import load
from asap_eval.report.pictures.keep_map import KeepMap
from asap_eval.report.pictures.strip import save_animated, save_strip
from asap_eval.runner.progress import say

STILL = tuple(ending for ending in EXTENSIONS if ending != ".gif")
"""Endings of pictures; a GIF mostly moves and is read as a video."""


@dataclass
class Asked:
    """What to draw, and how."""

    source: Path  # a video; a picture for a model such as LLaVA
    model: str = "deit_tiny"  # as for asap-eval
    weights: str | None = None  # a file, or random
    plugins: list[str] = field(default_factory=list)  # files or packages of methods
    method: str = "asap"  # whose patches are shown
    k: str | None = None  # the method's knob, a number or a word that it takes
    options: dict[str, Any] = field(default_factory=dict)  # of the method
    model_options: dict[str, Any] = field(default_factory=dict)  # as for asap-eval: num_classes ...
    settings: Literal["measured", "none"] = "measured"  # as for asap-eval: measured | none
    frames: int = 8  # even frames of the video
    seed: int = 0  # of random choices
    side: int = 160  # pixels of a picture's height
    out: Path = Path("strip.png")  # the picture
    animate: Path | None = None  # also write a .gif, .webp or .png that moves


def main(argv: Sequence[str]) -> int:
    """Draw the pictures; standard output gets their paths. 1 where it cannot be done."""
    return command(argv, Asked, "strip", str(__doc__), _drawn, places=["source"])


def _drawn(asked: Asked) -> None:
    load(asked.plugins)
    if asked.side < 1:
        raise BadValueError(f"side={asked.side}: give a number of pixels >= 1.")
    spec = with_options(asked.model, asked.model_options)
    _check_source(asked.source, spec)
    k, options = _knob(asked)
    found = measured.Taken()
    if asked.settings == "measured":
        found = measured.taken(spec.name, asked.method, {f"method.{name}" for name in options})
    if found.options:
        say(f"note: {measured.note(spec.name, asked.method, found)}")
    given: dict[str, Any] = {
        "weights": asked.weights,
        "k": k,
        "seed": asked.seed,
        "params": {**found.options, **options},
    }
    build_from(asked.method, given["params"], k).look()  # before a model is loaded
    if asked.source.suffix.lower() in STILL:
        maps = crop_maps(path_of(str(asked.source)), spec, asked.method, **given)
    else:
        maps = keep_maps(asked.source, spec, asked.method, frames=asked.frames, **given)
    for path, save in ((asked.out, save_strip), (asked.animate, save_animated)):
        if path is not None:
            save(maps, path, asked.side)
            print(path)


def _check_source(source: Path, spec: ModelSpec) -> None:
    """Raise where nothing is to be drawn of a source."""
    if not path_of(str(source)).is_file():
        raise DataError(f"{source}: there is no such file. Give a video, or a picture.")
    if source.suffix.lower() in STILL and not spec.vlm:
        raise BadValueError(
            f"{source} is a picture and '{spec.name}' an image model. Its keep-maps come from "
            f"asap-eval bench=keepmaps model={spec.name} images=<folder of pictures>; strip draws "
            "frames of a video, and a picture's crops in a model such as llava15_7b."
        )


def _knob(asked: Asked) -> tuple[float | None, dict[str, Any]]:
    """The knob as a number, and the method's options with it where it is a word."""
    knob = method_class(asked.method).card.knob
    if asked.k is None or knob is None:
        return None if asked.k is None else 0.0, asked.options  # refused by name as it is built
    try:
        return float(asked.k), asked.options
    except ValueError:
        if asked.options.get(knob, asked.k) != asked.k:
            raise BadValueError(
                f"k={asked.k} and method.{knob}={asked.options[knob]} both set the knob: drop one."
            ) from None
        return None, {**asked.options, knob: asked.k}


def keep_maps(
    video: Path,
    model: str | ModelSpec,
    method: str,
    *,
    weights: str | None = None,
    k: float | None = None,
    frames: int = 8,
    seed: int = 0,
    params: dict[str, Any] | None = None,
) -> list[KeepMap]:
    """What a method did to the patches of even frames of a video.

    Args:
        model, weights: as for `load_model`. k, params: of the method. seed: of its random choices.

    Raises:
        AsapEvalError: a video, model or option that cannot be used.
    """
    taken = read_frames(video, Sampling(frames).shares)
    loaded = load_model(model, weights=weights)
    pixels = torch.stack([loaded.transform(frame.image) for frame in taken])
    grid = geometry_of(loaded.model).grid
    reducer = build_from(method, params or {}, k)
    with torch.inference_mode(), install(loaded.model, reducer, seed=seed) as trace:
        trace.name_images([frame_id(video.name, frame.number, 0) for frame in taken])
        loaded.model(pixels)
    sinks = trace.notes.get("sink", torch.full((len(taken),), -1)).tolist()
    fates = fates_of(trace.source).tolist()
    images = as_pictures(pixels, loaded.transform)
    return [
        KeepMap(image, grid, fate, slots, sink if sink >= 0 else None, _title(frame, fate, fired))
        for frame, image, fate, slots, sink, fired in zip(
            taken, images, fates, trace.source.tolist(), sinks, trace.fired.tolist(), strict=True
        )
    ]


def _title(frame: Frame, fates: Sequence[int], fired: int) -> str:
    when = f"block {fired}" if fired else "never"
    return f"#{frame.number}: {fates.count(0)} of {len(fates)}, {when}"
