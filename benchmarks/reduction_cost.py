"""What each reduction costs beside the tower it acts in: one crop of CLIP ViT-L/14-336, 577 x 1024.

    python benchmarks/reduction_cost.py [--image photograph.jpg] [--device cuda --dtype float16]

Every registered method has a row (`cost_rows.py`). Tower and language model have their real widths
and seeded weights, and a method runs through the same hosts as in LLaVA. What is timed are the
sections that the unpruned model does not have: reading (attention maps less the fused attention
they replace, rows, keys), deciding, and making the new sequence. What the model saves behind it is
never counted, nor what proportional attention adds to a block (ToMe). Fused attention is that of
the fastest unpruned model, the kernel that methods run with, timed on the same tensors at the same
moment, and the tower beside every row: other work on the machine then falls on both sides.

In the tower, methods on its output run on the last used block alone, with the input it really has;
the others on the blocks up to the one where they end. ASAP's block is set by hand
(``never=block:12``): where it fires with seeded weights says nothing. Predictors (DynamicViT, SPOT)
and CLIP's text tower (CDPruner) are seeded, too; what they cost does not depend on what they say.

In the language model a prompt of all image tokens and 60 of text runs through as few layers as a
method's acting ones need. The rule: a cost for each acting layer, times the number of layers that
act in the authors' setting, plus what a prompt has once (landmarks, raters, laying it out). FastV
and the shift reading act in one layer, SparseVLM in three, all of them timed; of FNA's 20 two are.
FNA replaces attention: its cost is its attention less the fused one, and below 0 where that saves
time. The prefill that such rows are also a share of is one whole layer's time times the number of
layers: without embedding, cache and head.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import cost_language
import cost_tower
import torch
from cost_rows import USED, contenders
from rich.console import Console
from rich.table import Table

import asap_eval  # noqa: F401  (registers the methods)
from asap_eval.models.vlm import SEED
from asap_eval.timing.speed import backend, spread

PAPER = {"walk, early stop": (8, 311), "walk, all layers": (29, 311)}
"""Table 9: milliseconds more than the whole unpruned LLaVA-NeXT's 311, on an A100."""

MARKERS = ("<!-- reduction cost -->", "<!-- /reduction cost -->")
"""Where a page has the table."""


@torch.no_grad()
def main() -> None:
    options = _options()
    tower = cost_tower.tower_of(options)
    rows = contenders(options.budget, tower.geometry.patches, options.crops)
    if unknown := set(options.only) - {contender.label for contender in rows}:
        sys.exit(f"--only {', '.join(unknown)}: rows are {', '.join(c.label for c in rows)}.")
    rows = [c for c in rows if c.label in options.only or not options.only]
    pixels = cost_tower.pixels_of(options, tower)
    machine = backend(pixels) | {"load": os.getloadavg()[0]}
    states = cost_tower.states_of(tower, pixels)
    report: dict[str, Any] = {
        "command": "python " + " ".join(sys.argv),
        "machine": machine,
        "tower": f"{options.model}: {tower.geometry.tokens} x {tower.geometry.width}",
        "weights": f"seeded ({SEED})",
        "image": str(options.image or "noise"),
        "rows": [],
    }
    language = None
    if layers := max((c.layers for c in rows), default=0):
        language = cost_language.language_of(options, layers, states[USED][:, 1:])
        cost_language.layer_ms(language)  # a GPU's first time chooses kernels
    cost_tower.forward_ms(tower, pixels)
    whole: list[float] = []
    layer: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for contender in rows:
            # Beside every row, so that a busy hour does not set the tower's time of all.
            whole += [cost_tower.forward_ms(tower, pixels) for _ in range(options.tower_rounds)]
            report["tower_ms"] = {**spread(whole), "times": whole, "blocks": len(tower.blocks)}
            if language is not None and contender.in_language:
                layer += cost_language.layer_ms(language)
                report["language"] = _prefill(options, language, layer)
                row = cost_language.measure(options, contender, language)
            else:
                row = cost_tower.measure(options, contender, tower, pixels, states, Path(folder))
            report["rows"].append(row)
            print(_line(row, report), file=sys.stderr)
    report["rows"].sort(key=lambda row: row["total_ms"]["median"])
    out = options.out or Path(__file__).with_name(
        f"reduction_cost-{options.device}-{options.dtype}.json"
    )
    out.write_text(json.dumps(report, indent=1) + "\n")
    table = _print(report)
    print(out)
    if options.into is not None:
        _fill(options.into, table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", default="llava15_7b", help="whose tower and layers: their shapes"
    )
    parser.add_argument("--image", type=Path, help="a photograph; noise without it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--crops", type=int, default=1, help="5 is an image of LLaVA-NeXT")
    parser.add_argument("--budget", type=int, default=64, help="tokens left per crop")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tower-rounds", type=int, default=1, help="of each row")
    parser.add_argument("--only", nargs="+", default=[], help="rows by name")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--into", type=Path, help=f"write the table between {' '.join(MARKERS)}")
    return parser.parse_args()


def _prefill(
    options: argparse.Namespace, language: cost_language.Language, layer: list[float]
) -> dict[str, Any]:
    tokens, width = language.embeds.shape[1:]
    return {
        "shape": f"{options.model}: {tokens} x {width}",
        "layer_ms": {**spread(layer), "times": layer},
        "layers": language.depth,
        "prefill_ms": statistics.median(layer) * language.depth,
    }


def _line(row: dict[str, Any], report: dict[str, Any]) -> str:
    return " | ".join(_cells(row, report))


def _cells(row: dict[str, Any], report: dict[str, Any]) -> list[str]:
    total, tower = row["total_ms"], report["tower_ms"]["median"]
    prefill = report.get("language", {}).get("prefill_ms")
    parts = sorted(row["parts_ms"].items(), key=lambda part: -part[1])
    extra = PAPER.get(row["label"])
    return [
        row["label"],
        " / ".join(map(str, sorted(set(row["kept"])))),
        _where(row),
        f"{row['each_ms']:.2f}",
        f"{total['median']:.2f} [{total['p10']:.2f}, {total['p90']:.2f}]",
        f"{100 * total['median'] / tower:.2f}",
        "" if prefill is None else f"{100 * total['median'] / prefill:.3f}",
        ", ".join(f"{name} {ms:.2f}" for name, ms in parts if abs(ms) >= 0.005),
        "" if extra is None else f"{extra[0]} of {extra[1]} ms ({100 * extra[0] / extra[1]:.1f} %)",
    ]


def _where(row: dict[str, Any]) -> str:
    """Where a method acts, and how often."""
    if row["site"] in ("input", "output"):
        return f"the tower's {row['site']}"
    unit = "LLM layer" if row["where"] == "language model" else "block"
    acts, timed = row["acts"], row["acts_timed"]
    often = f"{acts} {unit}{'s' * (acts != 1)}"
    return often if acts == timed else f"{often}, {timed} timed"


def _print(report: dict[str, Any]) -> str:
    """Prints the table, and gives it as Markdown."""
    tower, crops = report["tower_ms"], report["machine"]["batch_size"]
    shape, language = report["tower"], report.get("language")
    prefill = "" if language is None else f"'s {language['prefill_ms']:.0f} ms"
    head = [
        "method",
        "patches kept",
        "works in",
        "ms each",
        "ms in all [p10, p90]",
        f"% of the tower's {tower['median']:.0f} ms",
        f"% of the prefill{prefill}",
        "parts, ms",
        "paper: of all of LLaVA-NeXT",
    ]
    table = Table(*head, title=f"Cost of the reduction, {crops} crop(s), {shape}")
    for row in report["rows"]:
        table.add_row(*_cells(row, report))
    Console(width=200).print(table)
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + _line(row, report) + " |" for row in report["rows"]]
    print("\n".join(lines))
    return "\n".join(lines)


def _fill(file: Path, table: str) -> None:
    """The table in place of what stands between the file's two markers."""
    begin, end = MARKERS
    before, _, rest = file.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        sys.exit(f"{file}: no lines {begin} and {end}.")
    file.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}")


if __name__ == "__main__":
    main()
