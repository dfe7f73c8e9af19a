"""What each reduction costs beside the tower it acts in: one crop of CLIP ViT-L/14-336, 577 x 1024.

    python benchmarks/reduction_cost.py [--image photograph.jpg] [--device cuda --dtype float16]

The tower has its real shapes and seeded weights. A method runs through the same host as in LLaVA;
what is timed are the sections that the unpruned tower does not have: reading (attention maps less
the fused attention they replace, rows, keys), deciding, and making the new sequence. Methods that
act on the tower's output run on the last used block alone, with the input it really has; the
others on the blocks up to the one where they end. Products that the model saves are not counted
against the cost, nor is what proportional attention adds to a block (ToMe). Fused attention is
timed on the same tensors at the same moment, and the tower beside every row: other work on the
machine then falls on both sides.

ASAP's block is set by hand (``never=block:12``): where it fires with seeded weights says nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

import asap_eval  # noqa: F401  (registers the methods)
from asap_eval.bench.sections import Sections, milliseconds
from asap_eval.bench.speed import backend, spread
from asap_eval.hosts import backbone_of, seam
from asap_eval.hosts.seam import Backbone, Pass, Seam
from asap_eval.method import Reducer, build
from asap_eval.methods import asap, prunesid, tome, visionzip, vispruner
from asap_eval.models import model_specs
from asap_eval.models.llava import fill
from asap_eval.models.vlm import PEAK, SEED

USED = 23
"""Blocks whose output LLaVA reads; the 24th runs in the unpruned model alone."""

FIRES = 12
"""ASAP's block here; the paper's figure has 11 to 13."""

NEVER = 1e9
"""Bins, or a threshold, beyond what any image has."""

PAPER = {"walk, early stop": (8, 311), "walk, all layers": (29, 311)}
"""Table 9: milliseconds more than the whole unpruned LLaVA-NeXT's 311, on an A100."""

MAPS, FUSED = "attention maps", "fused attention"


@dataclass(frozen=True)
class Contender:
    """A row: a method with its options, and the blocks of the tower it needs to run through."""

    label: str
    method: str
    k: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    blocks: int = USED


def contenders(budget: int, patches: int) -> list[Contender]:
    """Every method on a tower or its output, at ``budget`` of ``patches`` handed on."""
    here: dict[str, Any] = {"tau": NEVER, "never": f"block:{FIRES}"}
    share = budget / patches
    most, more = divmod(patches - budget, USED)
    schedule = [most + (block < more) for block in range(USED)]
    return [
        Contender("walk, all layers", "asap", 8, {"tau": NEVER}),
        Contender("walk, early stop", "asap", NEVER, here | {"normalise": "with_sink"}, FIRES),
        Contender("asap, pooling", "asap", 8, here, FIRES),
        Contender("asap, pooling + stride", "asap", 8, here | {"n": budget}, FIRES),
        Contender(
            "asap, hybrid",
            "asap",
            8,
            here | {"n": budget, "stage2": "algorithm2"},
            FIRES,
        ),
        Contender("tome", "tome", None, {"r": schedule}),
        Contender("visionzip", "visionzip", budget),
        Contender("vispruner", "vispruner", budget),
        Contender("prunesid", "prunesid", budget),
        Contender("average_pool", "average_pool", budget),
        # Three blocks act: a third of the way each, in tokens or in share.
        Contender("ppt", "ppt", (patches - budget + 2) // 3),
        Contender("evit", "evit", share ** (1 / 3)),
        Contender("ats", "ats", budget),
        Contender("zero_tprune, our reading", "zero_tprune", 1.0),
        Contender("mass", "mass", share, {"layer": FIRES}, FIRES),
        Contender("topk_cls", "topk_cls", share, {"layer": FIRES}, FIRES),
        Contender("random", "random", share, {"layer": FIRES}, FIRES),
        Contender("stride", "stride", share, {"layer": FIRES}, FIRES),
    ]


HOST = [
    (seam, "_rows", "attention rows"),
    (Pass, "_reduce", "host"),
    (Pass, "_apply", "new sequence"),
]
"""Where the host works for a method: owner, function, name of the part."""

OWN: dict[str, list[tuple[Any, str, str]]] = {
    "asap": [
        (asap.ASAP, "_step", "walk"),
        (asap.ASAP, "_mass", "masses"),
        (asap.ASAP, "_sink", "sink"),
        (asap.ASAP, "_distances", "distances"),
        (asap.ASAP, "_scaled", "distances"),
        (asap, "spread", "stage 2"),
        (asap.ASAP, "_ingredients", "stage 2"),
        (asap.ASAP, "_thin", "stage 2"),
    ],
    "tome": [(tome, "match", "matching")],
    "visionzip": [(visionzip, "compress", "selection and assignment")],
    "vispruner": [(vispruner, "important_and_diverse", "selection")],
    "prunesid": [
        (prunesid, "loadings", "decomposition"),
        (prunesid, "similarities", "cosines"),
        (prunesid, "suppress", "suppression"),
        (prunesid, "ranking", "quotas"),
        (prunesid, "quotas", "quotas"),
    ],
}
"""Parts of a method's own decision; what is in none of them is ``decision``."""


@torch.no_grad()
def main() -> None:
    options = _options()
    tower = _tower(options)
    pixels = _pixels(options, tower)
    rows = contenders(options.budget, tower.geometry.patches)
    if unknown := set(options.only) - {contender.label for contender in rows}:
        sys.exit(f"--only {', '.join(unknown)}: rows are {', '.join(c.label for c in rows)}.")
    rows = [c for c in rows if c.label in options.only or not options.only]
    machine = backend(pixels)
    inputs = _inputs(tower, pixels)
    whole: list[float] = []
    report: dict[str, Any] = {
        "command": "python " + " ".join(sys.argv),
        "machine": machine,
        "tower": f"{options.model}: {tower.geometry.tokens} x {tower.geometry.width}",
        "weights": f"seeded ({SEED})",
        "image": str(options.image or "noise"),
        "rows": [],
    }
    for contender in rows:
        # Beside every row, so that a busy hour does not set the tower's time of all.
        whole += [_forward_ms(tower, pixels) for _ in range(options.tower_rounds)]
        report["tower_ms"] = {**spread(whole), "times": whole, "blocks": len(tower.blocks)}
        report["rows"].append(_measure(options, contender, tower, inputs))
        print(_line(report["rows"][-1], report), file=sys.stderr)
    report["rows"].sort(key=lambda row: row["total_ms"]["median"])
    out = options.out or Path(__file__).with_name(
        f"reduction_cost-{options.device}-{options.dtype}.json"
    )
    out.write_text(json.dumps(report, indent=1) + "\n")
    _print(report)
    print(out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="llava15_7b", help="whose tower: its shapes")
    parser.add_argument("--image", type=Path, help="a photograph; noise without it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--crops", type=int, default=1, help="5 is an image of LLaVA-NeXT")
    parser.add_argument("--budget", type=int, default=64, help="tokens handed on per crop")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tower-rounds", type=int, default=1, help="of each row")
    parser.add_argument("--only", nargs="+", default=[], help="rows by name")
    parser.add_argument("--out", type=Path, default=None)
    return parser.parse_args()


def _tower(options: argparse.Namespace) -> Backbone:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(**model_specs()[options.model].kwargs["vision"])
    model: Any = CLIPVisionModel._from_config(config, attn_implementation="sdpa")
    fill(model.eval().requires_grad_(False), SEED, PEAK)
    return backbone_of(model.to(options.device, getattr(torch, options.dtype)))


def _pixels(options: argparse.Namespace, tower: Backbone) -> Tensor:
    """``[crops, 3, H, W]`` of the photograph, or noise of cells as large as a patch."""
    height, width = tower.image_size
    if options.image is None:
        cells = np.random.default_rng(0).integers(0, 255, (*tower.geometry.grid, 3), dtype=np.uint8)
        picture = Image.fromarray(cells)
    else:
        picture = Image.open(options.image).convert("RGB")
    resized = np.array(picture.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = torch.from_numpy(resized / 127.5 - 1).permute(2, 0, 1)
    return pixels.repeat(options.crops, 1, 1, 1).to(options.device, getattr(torch, options.dtype))


def _outer(tower: Backbone) -> Any:
    """The module that holds embeddings and the norm before the blocks."""
    model: Any = tower.model
    return getattr(model, "vision_model", model)


def _forward_ms(tower: Backbone, pixels: Tensor) -> float:
    return milliseconds(lambda: tower.model(pixels), pixels.device)


def _inputs(tower: Backbone, pixels: Tensor) -> list[Tensor]:
    """Input ``[crops, 577, 1024]`` of every used block."""
    outer = _outer(tower)
    inputs = [outer.pre_layrnorm(outer.embeddings(pixels))]
    for block in tower.blocks[: USED - 1]:
        inputs.append(block(inputs[-1], None))
    return inputs


def _measure(
    options: argparse.Namespace,
    contender: Contender,
    tower: Backbone,
    inputs: list[Tensor],
) -> dict[str, Any]:
    """One row: milliseconds of each part and of all, over the rounds."""
    reducer = build(contender.method, k=contender.k, **contender.params)
    first = USED - 1 if reducer.site == "output" else 0
    blocks = tower.blocks[first : contender.blocks]
    geometry = replace(tower.geometry, blocks=tower.geometry.blocks[first : contender.blocks])
    part = replace(tower, blocks=blocks, geometry=geometry)
    sections = Sections(inputs[0].device)
    rounds: list[dict[str, float]] = []
    with _watched(sections, reducer), Seam(part, reducer, 0) as trace:
        for number in range(-1, options.rounds):
            trace.name_images([str(crop) for crop in range(options.crops)])
            x = inputs[first]
            for block in blocks:
                x = block(x, None)
            taken = sections.take()
            if FUSED in taken:
                # What is left is what reading costs: the fused attention would have run, too.
                taken[MAPS] -= taken.pop(FUSED)
            if number >= 0:
                rounds.append(taken)
    parts = sorted({name for taken in rounds for name in taken})
    return {
        "label": contender.label,
        "method": contender.method,
        "k": contender.k,
        "params": contender.params,
        "kept": (trace.lengths[-1] - 1).tolist(),
        "total_ms": spread([sum(taken.values()) for taken in rounds]),
        "parts_ms": {p: statistics.median(taken.get(p, 0.0) for taken in rounds) for p in parts},
        "rounds": len(rounds),
    }


@contextmanager
def _watched(sections: Sections, reducer: Reducer) -> Iterator[None]:
    """Sections around everything that the unpruned tower does not do."""
    with ExitStack() as stack:
        stack.enter_context(_beside_fused(sections))
        for owner, function, name in [*HOST, *OWN.get(reducer.name, [])]:
            stack.enter_context(sections.around(owner, function, name))
        stack.enter_context(sections.around(reducer, "begin", "decision"))
        stack.enter_context(sections.around(reducer, "decide", "decision"))
        yield


@contextmanager
def _beside_fused(sections: Sections) -> Iterator[None]:
    """Times attention that gives its maps, and fused attention on the same tensors at that moment:
    before it and behind it in turn."""
    plain = seam.attend_with_maps

    def both(q: Tensor, k: Tensor, v: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        def fused() -> None:
            with sections.section(FUSED):
                F.scaled_dot_product_attention(q, k, v)

        first = sections.calls[MAPS] % 2 == 0
        if first:
            fused()
        with sections.section(MAPS):
            found = plain(q, k, v, *args)
        if not first:
            fused()
        return found

    seam.attend_with_maps = both
    try:
        yield
    finally:
        seam.attend_with_maps = plain


def _line(row: dict[str, Any], report: dict[str, Any]) -> str:
    return " | ".join(_cells(row, report))


def _cells(row: dict[str, Any], report: dict[str, Any]) -> list[str]:
    total, tower = row["total_ms"], report["tower_ms"]["median"]
    parts = sorted(row["parts_ms"].items(), key=lambda part: -part[1])
    extra = PAPER.get(row["label"])
    return [
        row["label"],
        " / ".join(map(str, sorted(set(row["kept"])))),
        f"{total['median']:.2f} [{total['p10']:.2f}, {total['p90']:.2f}]",
        f"{100 * total['median'] / tower:.2f}",
        ", ".join(f"{name} {ms:.2f}" for name, ms in parts if abs(ms) >= 0.005),
        "" if extra is None else f"{extra[0]} of {extra[1]} ms ({100 * extra[0] / extra[1]:.1f} %)",
    ]


def _print(report: dict[str, Any]) -> None:
    tower, crops = report["tower_ms"], report["machine"]["batch_size"]
    shape = report["tower"]
    head = [
        "method",
        "patches kept",
        "ms [p10, p90]",
        f"% of the tower's {tower['median']:.0f} ms",
        "parts, ms",
        "paper: of all of LLaVA-NeXT",
    ]
    table = Table(*head, title=f"Cost of the reduction, {crops} crop(s), {shape}")
    for row in report["rows"]:
        table.add_row(*_cells(row, report))
    Console(width=180).print(table)
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in report["rows"]:
        print("| " + _line(row, report) + " |")


if __name__ == "__main__":
    main()
