"""Whether decoding keeps up with encoding: frames per second of both, and of both at once.

    python benchmarks/video.py --data <folder of videos> --model deit_tiny --weights <file>

Videos are repeated until there are enough. Decoding is everything up to the model's input: reading
the file twice (its times first), decoding in order, resizing, normalising. Each rate is the median
of some rounds; "both" runs the encoder on batches that worker processes decode meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from asap_eval.bench.speed import backend
from asap_eval.models import LoadedModel, load_model
from asap_eval.video.encoder import encoder_of, features
from asap_eval.video.listing import EXTENSIONS, Listing
from asap_eval.video.loader import VideoBatch, video_batches
from asap_eval.video.sampling import Sampling
from asap_eval.video.store import VideoStore


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
    table = Table("what", "workers", "frames/s")
    for row in report["rates"]:
        table.add_row(row["what"], str(row["workers"]), f"{row['frames_s']:.1f}")
    Console().print(table)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        print(options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="folder of videos, searched deeply")
    parser.add_argument("--model", default="deit_tiny")
    parser.add_argument("--weights", help="a file, or random")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32, help="frames")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
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
        "command": "python " + " ".join(sys.argv),
        "rates": rates,
        "machine": backend(held[0].pixels[: options.batch_size].to(options.device)),
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
