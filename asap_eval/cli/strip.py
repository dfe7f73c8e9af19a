"""``asap-eval-strip``: what a method keeps of the frames of a video, or of the crops of a picture
in a vision-language model, as pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf

import asap_eval  # noqa: F401  (registers the methods)
from asap_eval.bench.patches import as_pictures, fates_of
from asap_eval.cli.crops import crop_maps
from asap_eval.data.decoding import EXTENSIONS
from asap_eval.data.videos.decode import Frame, read_frames
from asap_eval.data.videos.loader import frame_id
from asap_eval.data.videos.sampling import Sampling
from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.files.archive import path_of
from asap_eval.hosts import geometry_of, install
from asap_eval.method import build_from
from asap_eval.models import load_model
from asap_eval.report.pictures.keep_map import KeepMap
from asap_eval.report.pictures.strip import save_animated, save_strip
from asap_eval.runner.progress import say

STILL = tuple(ending for ending in EXTENSIONS if ending != ".gif")
"""Endings of pictures; a GIF mostly moves and is read as a video."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures; standard output gets their paths. 1 where it cannot be done."""
    args = _parser().parse_args(argv)
    try:
        if args.side < 1:
            raise BadValueError(f"--side {args.side}: give a number of pixels >= 1.")
        given = {
            "weights": args.weights,
            "k": args.k,
            "seed": args.seed,
            "params": _params(args.option),
        }
        if args.source.suffix.lower() in STILL:
            maps = crop_maps(path_of(str(args.source)), args.model, args.method, **given)
        else:
            maps = keep_maps(args.source, args.model, args.method, frames=args.frames, **given)
        for path, save in ((args.out, save_strip), (args.animate, save_animated)):
            if path is not None:
                save(maps, path, args.side)
                print(path)
    except AsapEvalError as error:
        say(f"error: {error}", style="red")
        return 1
    return 0


def keep_maps(
    video: Path,
    model: str,
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
    loaded = load_model(model, weights=weights)
    taken = read_frames(video, Sampling(frames).shares)
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


def _params(words: Sequence[str]) -> dict[str, Any]:
    for word in words:
        if "=" not in word:
            raise BadValueError(f"--option {word}: give name=value.")
    return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.from_dotlist(list(words))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("asap-eval-strip", description=__doc__)
    parser.add_argument("source", type=Path, help="a video; a picture for a model such as LLaVA")
    parser.add_argument("--model", default="deit_tiny", help="as for asap-eval (%(default)s)")
    parser.add_argument("--weights", help="a file, or random")
    parser.add_argument("--method", default="asap")
    parser.add_argument("--k", type=float, help="the method's knob")
    parser.add_argument("--option", action="append", default=[], help="of the method: name=value")
    parser.add_argument("--frames", type=int, default=8, help="even frames (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--side", type=int, default=160, help="pixels of a picture's height (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("strip.png"), help="(%(default)s)")
    parser.add_argument("--animate", type=Path, help="also write a .gif, .webp or .png that moves")
    return parser


if __name__ == "__main__":
    sys.exit(main())
