"""What attention costs on a CPU: torch's fused call, its maps, and the compiled kernel.

    python benchmarks/attention_kernel.py

Random queries, keys and values of one block, as views of one buffer like a model's. The four ways
take turns in each round, forwards and backwards:

* fused: PyTorch's fused attention, without maps; images of one length a call;
* torch maps: attention in torch that returns the mean of the heads' maps of every image;
* native, native maps: the compiled kernel without and with these maps.

Before, the results are compared: they agree to fp32's rounding or the script ends with an error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contenders
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import asap_eval  # noqa: F401  (its first import decides the order of the others)
from asap_eval.hosts.attention import attend, attend_with_maps
from asap_eval.hosts.layout import Layout
from asap_eval.kernels import attention_kernel, available, packed_attention
from asap_eval.timing.speed import backend

SHAPES: dict[str, tuple[int, tuple[int, ...]]] = {
    "DeiT-Tiny": (3, (197,) * 32),
    "DeiT-Small": (6, (197,) * 32),
    "CLIP-L": (16, (577,) * 4),
    # As after images fired one by one: hardly two have one length.
    "DeiT-Tiny, ragged": (3, tuple(round(197 - 177 * i / 31) for i in range(32))),
}
"""Heads, and tokens of each image; a head is 64 wide."""

WIDTH = 64
WARMUP = 3


def main() -> None:
    options = _options()
    torch.set_grad_enabled(False)
    there, which = available()
    if not there:
        sys.exit(f"No native kernel to time: {which}.")
    machine: dict[str, Any] = {}
    rows = []
    for label in options.only or SHAPES:
        heads, lengths = SHAPES[label]
        layout = Layout(lengths)
        buffer = torch.randn(
            layout.total, 3, heads, WIDTH, generator=torch.Generator().manual_seed(0)
        )
        machine = backend(buffer) | {"attention": attention_kernel("cpu", torch.float32)}
        del machine["batch_size"]
        ways = _ways(buffer, layout)
        _compare(label, ways)
        times = _times(ways, options.rounds)
        rows.append(
            {
                "shape": label,
                "heads": heads,
                "lengths": lengths,
                "ms": {way: _marks(found) for way, found in times.items()},
                "times_ms": {way: found.tolist() for way, found in times.items()},
            }
        )
    _print(rows)
    print(contenders.write({"attention": rows, "machine": machine}, options, "attention_kernel"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=SHAPES, help="shapes by name")
    parser.add_argument("--out", type=Path, help="JSON file; one beside the script without it")
    # The kernel is for this device and precision; they name the file.
    parser.set_defaults(device="cpu", dtype="float32")
    return parser.parse_args()


def _ways(buffer: Tensor, layout: Layout) -> dict[str, Callable[[], tuple[Tensor, Tensor | None]]]:
    """Each gives the output, as its own layout has it, and the maps or None.

    Args:
        buffer: ``[T, 3, H, d]``.
    """
    q, k, v = buffer.unbind(1)
    by_head = [layout.shaped(t).transpose(1, 2) for t in (q, k, v)]
    every = range(len(layout.lengths))
    starts, lengths = layout.starts, layout.lengths
    return {
        "fused": lambda: (attend(*by_head, layout, None), None),
        "torch maps": lambda: attend_with_maps(*by_head, layout, None, list(every), False),
        "native": lambda: packed_attention(q, k, v, starts, lengths),
        "native maps": lambda: packed_attention(q, k, v, starts, lengths, map_of=every),
    }


def _compare(label: str, ways: dict[str, Callable[[], tuple[Tensor, Tensor | None]]]) -> None:
    fused, _ = ways["fused"]()
    wanted = fused.transpose(1, 2).flatten(0, 1)
    _, maps = ways["torch maps"]()
    for way in ("native", "native maps"):
        out, own = ways[way]()
        if not torch.allclose(out, wanted, rtol=0, atol=1e-5):
            sys.exit(f"{label}: the output of {way} differs from the fused call's.")
        if own is not None and not torch.allclose(own, maps, rtol=1e-4, atol=1e-6):
            sys.exit(f"{label}: the maps of {way} differ from torch's.")


def _times(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Tensor]:
    """``[rounds]`` fp64 milliseconds of each way."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(-WARMUP, rounds):
        for way in list(ways) if turn % 2 else list(ways)[::-1]:
            begin = time.perf_counter()
            ways[way]()
            if turn >= 0:
                found[way].append(1000 * (time.perf_counter() - begin))
    return {way: torch.tensor(values).double() for way, values in found.items()}


def _marks(values: Tensor) -> dict[str, float]:
    cuts = torch.quantile(values, torch.tensor([0.5, 0.1, 0.9]).double()).tolist()
    return {
        "fastest": values.min().item(),
        **dict(zip(("median", "p10", "p90"), cuts, strict=True)),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    ways = list(rows[0]["ms"])
    table = Table("shape", "heads", "images", *ways, caption="ms: median (fastest)")
    for row in rows:
        cells = (f"{m['median']:.2f} ({m['fastest']:.2f})" for m in row["ms"].values())
        table.add_row(row["shape"], str(row["heads"]), str(len(row["lengths"])), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
