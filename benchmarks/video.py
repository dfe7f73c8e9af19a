"""Whether decoding keeps up with encoding, and what one clip costs CLIP ViT-L/14.

    python benchmarks/video.py --data <folder of videos> --model deit_tiny --weights <file>

Videos are repeated until there are enough. Decoding is everything up to the model's input: reading
the file twice (its times first), decoding in order, resizing, normalising. Each rate is the median
of some rounds; "both" runs the encoder on batches that worker processes decode meanwhile. "Clip"
is one clip through an unpruned encoder with random weights, of which its speed does not depend.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contenders
import torch
from rich.console import Console
from rich.table import Table

from asap_eval.data.videos.listing import EXTENSIONS, Listing
from asap_eval.data.videos.loader import VideoBatch, video_batches
from asap_eval.data.videos.sampling import Sampling
from asap_eval.data.videos.store import VideoStore
from asap_eval.hosts import geometry_of
from asap_eval.models import LoadedModel, load_model
from asap_eval.models.encoder import encoder_of, features
from asap_eval.timing.speed import backend
from asap_eval.work.convention import CONVENTIONS
from asap_eval.work.macs import unpruned_attention_macs, unpruned_macs


def main() -> None:
    options = _options()
    found = sorted(f for f in Path(options.data).rglob("*") if f.suffix.lower() in EXTENSIONS)
    if not found:
        sys.exit(f"No video in {options.data}.")
    files = [found[at % len(found)] for at in range(options.videos)]
    names = [f"{at}/{file.name}" for at, file in enumerate(files)]
    store = VideoStore(Listing(names, files, ["video"] * len(files)), ["video"], options.data)
    loaded = encoder_of(
        load_model(
            options.model, weights=options.weights, device=options.device, dtype=options.dtype
        ),
        "pooled",
    )
    report = _measured(options, store, loaded)
    report["clips"] = [_clip(options, files[0], name) for name in options.shapes]
    _print(report)
    print(contenders.write(report, options, "video"))


def _print(report: dict[str, Any]) -> None:
    rates = Table("what", "workers", "frames/s", title=report["model"])
    for row in report["rates"]:
        rates.add_row(row["what"], str(row["workers"]), f"{row['frames_s']:.1f}")
    clips = Table("one clip through", "frames", "GMACs a frame", "as the paper counts", "seconds")
    for row in report["clips"]:
        work = (f"{row[name]:.2f}" for name in ("frame_g", "paper_g"))
        clips.add_row(row["model"], str(row["frames"]), *work, f"{row['seconds']:.1f}")
    for table in (rates, clips):
        Console().print(table)


def _options() -> argparse.Namespace:
    parser = contenders.parser(__doc__, rounds=3, data="folder of videos, searched deeply")
    parser.add_argument("--model", default="deit_tiny")
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32, help="frames")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--shapes",
        nargs="*",
        default=["clip_vit_l14_336", "clip_vit_l14_224"],
        help="models through which one clip is timed",
    )
    return parser.parse_args()


def _measured(
    options: argparse.Namespace, store: VideoStore, loaded: LoadedModel
) -> dict[str, Any]:
    def batches(workers: int) -> list[VideoBatch]:
        return list(_decode(options, store, loaded, workers))

    held = [batch for batch in batches(0) if len(batch.pixels)]
    rates = []
    for workers in options.workers:
        rates.append(_rate(options, "decoding", workers, lambda w=workers: batches(w)))
    rates.append(_rate(options, "encoding", "-", lambda: [_encode(loaded, b) for b in held]))
    for workers in options.workers:

        def both(workers: int = workers) -> list[VideoBatch]:
            done = []
            for batch in _decode(options, store, loaded, workers):
                _encode(loaded, batch)
                done.append(batch)
            return done

        rates.append(_rate(options, "both", workers, both))
    return {
        "model": loaded.name,
        "rates": rates,
        "machine": backend(held[0].pixels[: options.batch_size].to(options.device)),
    }


def _clip(options: argparse.Namespace, file: Path, name: str) -> dict[str, Any]:
    """Seconds of one clip through an encoder, after one frame that is not counted."""
    device, dtype = options.device, options.dtype
    encoder = encoder_of(load_model(name, weights="random", device=device, dtype=dtype), "pooled")
    store = VideoStore(Listing([file.name], [file], ["video"]), ["video"], options.data)
    (batch,) = video_batches(
        store, range(1), Sampling(options.frames), encoder.transform, options.batch_size, 0
    )
    with torch.inference_mode():
        features(encoder.model, batch.pixels[:1], batch.frame_ids[:1])
        begin = time.perf_counter()
        for pixels, ids in batch.passes():
            features(encoder.model, pixels, ids)  # on the CPU again: a GPU has finished
        seconds = time.perf_counter() - begin
    geometry = geometry_of(encoder.model)
    macs, attention = unpruned_macs(geometry), unpruned_attention_macs(geometry)
    return {
        "model": name,
        "frames": len(batch.pixels),
        "frame_g": macs / 1e9,
        "paper_g": CONVENTIONS["paper"].counted(geometry, macs, attention) / 1e9,
        "seconds": seconds,
        "frames_s": len(batch.pixels) / seconds,
    }


def _decode(
    options: argparse.Namespace, store: VideoStore, loaded: LoadedModel, workers: int
) -> Any:
    return video_batches(
        store,
        range(len(store.ids)),
        Sampling(options.frames),
        loaded.transform,
        options.batch_size,
        workers,
    )


def _encode(loaded: LoadedModel, batch: VideoBatch) -> VideoBatch:
    with torch.inference_mode():
        for pixels, ids in batch.passes():
            features(loaded.model, pixels, ids)
    return batch


def _rate(
    options: argparse.Namespace, what: str, workers: object, step: Callable[[], list[VideoBatch]]
) -> dict[str, Any]:
    """Frames per second of a step that returns its batches, and the seconds of every round."""
    seconds, frames = [], 0
    for _ in range(options.rounds):
        begin = time.perf_counter()
        frames = sum(len(batch.pixels) for batch in step())
        seconds.append(time.perf_counter() - begin)
    rate = frames / statistics.median(seconds)
    return {"what": what, "workers": workers, "frames_s": rate, "seconds": seconds}


if __name__ == "__main__":
    main()
