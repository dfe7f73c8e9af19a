"""What the walk costs, what arrives of the saving, and what memory it takes.

One command, one process, contenders in turns (see asap_eval/timing/speed.py):

    python benchmarks/speed.py --data imagenet/val --weights deit_tiny.safetensors

* walk: ASAP's whole walk through all blocks with C materialised and no reduction, against the
  fastest unpruned model (torch's fused attention, or our kernel's) and against torch's. It is
  content-free: shapes without weights here are random.
* reduction: methods at one MACs budget on real images and real weights.
* memory: peak above the loaded model of one forward.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import contenders
import torch
from rich.console import Console
from rich.table import Table

import asap_eval  # noqa: F401  (registers the methods)
from asap_eval.hosts import geometry_of, install
from asap_eval.method import Reducer, build
from asap_eval.models import LoadedModel, load_model
from asap_eval.timing.memory import peak_gb
from asap_eval.timing.speed import backend, measure_speed, spread
from asap_eval.work.macs import unpruned_macs

NEVER = float("inf")


def main() -> None:
    options = _options()
    torch.set_grad_enabled(False)
    report: dict[str, Any] = {"walk": [_walk(options, name) for name in options.shapes]}
    loaded = load_model(
        "deit_tiny", weights=options.weights, device=options.device, dtype=options.dtype
    )
    report["reduction"] = list(_reductions(options, loaded))
    report["memory"] = _memory(options, loaded)
    report["machine"] = backend(contenders.batches_of(options.data, loaded, 1, 1)[0].images)
    _print(report)
    print(contenders.write(report, options, "speed"))


def _options() -> argparse.Namespace:
    parser = contenders.parser(__doc__, rounds=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--target", type=float, default=-35.0, help="MACs change in %%")
    parser.add_argument("--methods", nargs="+", default=["random", "asap"])
    parser.add_argument(
        "--tau", type=float, nargs="+", default=[1.4, 1.7], help="ASAP's thresholds, a row each"
    )
    parser.add_argument(
        "--shapes",
        nargs="*",
        default=["deit_tiny", "deit_small"],
        help="models whose walk is measured, optionally with a batch size: clip_vit_l14_336:64",
    )
    return parser.parse_args()


def _walk(options: argparse.Namespace, shape: str) -> dict[str, Any]:
    """The walk's share of a fused forward. Its floor is its own products over the model's."""
    name, _, size = shape.partition(":")
    loaded = load_model(name, weights="random", device=options.device, dtype=options.dtype)
    pixels = contenders.batches_of(options.data, loaded, 1, int(size or options.batch_size))
    walk = build("asap", tau=NEVER)
    speed = measure_speed(loaded.model, walk, pixels, rounds=options.rounds)
    geometry = geometry_of(loaded.model)
    return {
        "model": name,
        "batch_size": len(pixels[0].images),
        "overhead_pct": _overhead(speed, speed["fused_by"]),
        "overhead_torch_pct": _overhead(speed, "torch"),
        "floor_pct": 100 * geometry.depth * geometry.tokens**3 / unpruned_macs(geometry),
        **speed,
    }


def _overhead(speed: dict[str, Any], over: str) -> dict[str, float]:
    """Time beyond that of an unpruned contender, in percent of it."""
    both = (speed["times_s"][name] for name in ("method", over))
    return spread([100 * (walk / whole - 1) for walk, whole in zip(*both, strict=True)])


def _reductions(options: argparse.Namespace, loaded: LoadedModel) -> Iterator[dict[str, Any]]:
    batches = contenders.batches_of(options.data, loaded, 4, options.batch_size)
    for name in options.methods:
        for params in [{"tau": tau} for tau in options.tau] if name == "asap" else [{}]:
            found = contenders.meet(loaded, name, params, batches, options.target)
            reducer = build(name, k=found.knob, **params)
            speed = measure_speed(loaded.model, reducer, batches, rounds=options.rounds)
            yield {
                "method": name,
                "k": found.knob,
                **params,
                "macs_change_pct": found.reached,
                "share_of_ideal_torch": contenders.over_torch(speed)[1],
                **speed,
            }


def _memory(options: argparse.Namespace, loaded: LoadedModel) -> dict[str, Any]:
    pixels = contenders.batches_of(options.data, loaded, 1, 64)[0]

    def peak(reducer: Reducer | None) -> float:
        def step() -> None:
            if reducer is None:
                loaded.model(pixels.images)
                return
            with install(loaded.model, reducer) as trace:
                trace.name_images(pixels.ids)
                loaded.model(pixels.images)

        step()
        return peak_gb(step, pixels.images.device)

    whole = peak(None)
    asap = peak(build("asap", k=2.0, tau=options.tau[0]))
    walk = peak(build("asap", tau=NEVER))
    return {
        "batch_size": 64,
        "unpruned_gb": whole,
        "asap_gb": asap,
        "walk_gb": walk,
        "asap_ratio": asap / whole,
        "walk_ratio": walk / whole,
    }


def _print(report: dict[str, Any]) -> None:
    console = Console()
    walk = Table("model", "batch", "walk costs, % of the fastest forward", "% of torch's",
                 "floor %", title="Walk")  # fmt: skip
    for row in report["walk"]:
        walk.add_row(
            row["model"],
            str(row["batch_size"]),
            *(
                f"{cost['median']:.1f} [{cost['p10']:.1f}, {cost['p90']:.1f}]"
                for cost in (row["overhead_pct"], row["overhead_torch_pct"])
            ),
            f"{row['floor_pct']:.1f}",
        )
    reduction = Table("method", "k", "MACs %", "speed-up", "ideal", "share", "share over torch's",
                      title="Reduction")  # fmt: skip
    for row in report["reduction"]:
        speedup = row["speedup"]
        reduction.add_row(
            row["method"] + (f" tau={row['tau']}" if "tau" in row else ""),
            f"{row['k']:.4g}",
            f"{row['macs_change_pct']:.2f}",
            f"{speedup['median']:.3f} [{speedup['p10']:.3f}, {speedup['p90']:.3f}]",
            f"{row['ideal']:.3f}",
            f"{row['share_of_ideal']:.3f}",
            f"{row['share_of_ideal_torch']:.3f}",
        )
    console.print(walk, reduction)
    memory = report["memory"]
    console.print(
        f"Peak memory at batch {memory['batch_size']}: unpruned {memory['unpruned_gb']:.3f} GB, "
        f"asap {memory['asap_ratio']:.2f} times that, the whole walk {memory['walk_ratio']:.2f}."
    )


if __name__ == "__main__":
    main()
