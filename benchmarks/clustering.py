"""What ASAP's decision costs once an image fires, the walk left out; the paper says 0.01 ms.

    python benchmarks/clustering.py --data imagenet/val --weights deit_tiny.safetensors

Real images run through the model up to one block, whose attention, walk and tokens are kept. Then
three steps take turns on them, from the same state each time:

* walk: `decide` with tau at infinity: one product of the walk and its masses, no image fires;
* decide: `decide` with every image firing: the same, and distances, bins and pooling weights;
* pool: the reduced sequence is made of the tokens.

Clustering is decide - walk + pool, taken inside each round. Nothing is repeated inside a round that
a real run does once; a round on a GPU ends with a synchronisation, and its launches count.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from typing import Any

import contenders
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from asap_eval.data.images import image_batches, open_images
from asap_eval.hosts import install
from asap_eval.method import Need, Reducer, View, build, method_class
from asap_eval.models import LoadedModel, load_model
from asap_eval.timing.speed import backend
from asap_eval.tokens import Reduction, Tokens

WARMUP = 20


class Capture(Reducer):
    """Runs ASAP without letting it fire, and keeps what it sees at one block."""

    name = "capture"

    def __init__(self, block: int) -> None:
        self.block = block
        self.asap = build("asap", tau=math.inf)
        self.view: View | None = None
        self.state: Any = None

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ATTENTION, Need.FEATURES})

    def begin(self, batch: Any) -> Any:
        return self.asap.begin(batch)

    def watch(self, block: int, state: Any) -> bool:
        return block <= self.block

    def observe(self, view: View, state: Any) -> None:
        if view.block == self.block:
            self.view, self.state = view, copy.copy(state)
        self.asap.observe(view, state)

    def decide(self, view: View, state: Any) -> Reduction | None:
        return self.asap.decide(view, state)


def main() -> None:
    options = _options()
    torch.set_grad_enabled(False)
    loaded = load_model(
        options.model, weights=options.weights, device=options.device, dtype=options.dtype
    )
    rows, machine = [], {}
    for size in options.batch_sizes:
        row, machine = _measure(options, loaded, size)
        rows.append(row)
    _print(rows)
    print(contenders.write({"clustering": rows, "machine": machine}, options, "clustering"))


def _options() -> argparse.Namespace:
    parser = contenders.parser(__doc__, rounds=200)
    parser.add_argument("--model", default="deit_tiny")
    parser.add_argument("--block", type=int, default=8, help="block after which the images fire")
    parser.add_argument("--k", type=float, default=8.0, help="ASAP's bins")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    return parser.parse_args()


def _measure(
    options: argparse.Namespace, loaded: LoadedModel, size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row of one batch size, and the machine it ran on."""
    images = open_images(
        options.data, classes=loaded.classes, labels=loaded.labels, limit=size, sample="spread"
    )
    (batch,) = image_batches(images, loaded.transform, size)
    first = next(loaded.model.parameters())
    pixels = batch.pixels.to(first.device, first.dtype)
    capture = Capture(options.block)
    with install(loaded.model, capture) as trace:
        trace.name_images(batch.readable)
        loaded.model(pixels)
    view, state = capture.view, capture.state
    assert view is not None
    tokens = Tokens.start(view.features, view.prefix)
    never = build("asap", k=options.k, tau=math.inf)
    always = build("asap", k=options.k, tau=-math.inf)

    def whole(method: Reducer) -> Reduction | None:
        """The walk's step and the decision; the state that was kept stays as it is."""
        walk = copy.copy(state)
        method.observe(view, walk)
        return method.decide(view, walk)

    reduction = whole(always)
    assert reduction is not None
    steps: dict[str, Callable[[], object]] = {
        "walk": lambda: whole(never),
        "decide": lambda: whole(always),
        "pool": lambda: tokens.apply(reduction),
    }
    times = _times(steps, pixels, options.rounds)
    per_image = (times["decide"] - times["walk"] + times["pool"]) / len(pixels)
    row = {
        "model": loaded.name,
        "method": method_class("asap").name,
        "device": options.device,
        "dtype": options.dtype,
        "block": options.block,
        "k": options.k,
        "batch_size": size,
        "images": len(pixels),
        "rounds": options.rounds,
        "ms_per_image": _marks(per_image),
        "parts_ms_per_image": {n: _marks(t / len(pixels)) for n, t in times.items()},
        "times_ms": {name: found.tolist() for name, found in times.items()},
    }
    return row, backend(pixels)


def _times(
    steps: dict[str, Callable[[], object]], pixels: Tensor, rounds: int
) -> dict[str, Tensor]:
    """``[rounds]`` fp64 milliseconds of each step, taken in turns forwards and backwards."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-WARMUP, rounds):
        for name in list(steps) if turn % 2 else list(steps)[::-1]:
            _synchronise(pixels)
            begin = time.perf_counter()
            steps[name]()
            _synchronise(pixels)
            if turn >= 0:
                found[name].append(1000 * (time.perf_counter() - begin))
    return {name: torch.tensor(values).double() for name, values in found.items()}


def _synchronise(pixels: Tensor) -> None:
    if pixels.is_cuda:
        torch.cuda.synchronize(pixels.device)


def _marks(values: Tensor) -> dict[str, float]:
    cuts = torch.quantile(values, torch.tensor([0.5, 0.1, 0.9]).double()).tolist()
    return dict(zip(("median", "p10", "p90"), cuts, strict=True))


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("model", "device", "batch", "ms per image [p10, p90]", "decide", "walk", "pool")
    for row in rows:
        cost, parts = row["ms_per_image"], row["parts_ms_per_image"]
        table.add_row(
            row["model"],
            row["device"],
            str(row["batch_size"]),
            f"{cost['median']:.4f} [{cost['p10']:.4f}, {cost['p90']:.4f}]",
            *(f"{parts[name]['median']:.4f}" for name in ("decide", "walk", "pool")),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
