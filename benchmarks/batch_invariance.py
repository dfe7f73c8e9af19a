"""What the batch changes: every method in one batch and image by image, beside the unpruned model.

    python benchmarks/batch_invariance.py --data imagenet/val --weights deit_tiny.safetensors

Each column is a process of its own: fp32, bf16 and fp16, and bf16 once more with oneDNN held to
instructions without bf16 products (``ONEDNN_MAX_CPU_ISA``) on two threads, as an older processor
has them: its products depend on how many rows they have, and so do the unpruned model's logits.

A cell is the number of images that are reduced otherwise (another source of any patch, or another
number of tokens) and the greatest difference of a logit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import contenders
import torch
from invariance_table import put, table

from asap_eval.hosts import install
from asap_eval.method import build
from asap_eval.models import load_model
from asap_eval.runner import provenance
from asap_eval.timing.speed import Pixels

MODEL = "deit_tiny"

SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "random": {"k": 0.5},
    "stride": {"k": 0.5},
    "downsample": {"k": 0.7},
    "mass": {"k": 0.5},
    "topk_cls": {"k": 0.5},
    "asap": {"k": 2, "tau": 1.4},
    "tome": {"r": 13},
    "ppt": {"r": 50},
    "evit": {"k": 0.7},
    "ats": {"k": 100},
    "zero_tprune": {},
    "average_pool": {"k": 49},
    "visionzip": {"k": 64},
    "vispruner": {"k": 64},
    "prunesid": {"k": 64},
    "fna": {"m": 64},
}
"""Options of each method; those with trained predictors, and those in a language model, are left
out."""

ONE = {"OMP_NUM_THREADS": "1"}
OLDER = {"OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}

COLUMNS: dict[str, tuple[str, dict[str, str]]] = {
    "fp32": ("float32", ONE),
    "bf16": ("bfloat16", ONE),
    "fp16": ("float16", ONE),
    "bf16 without bf16 instructions": ("bfloat16", OLDER),
}


def forward(
    model: torch.nn.Module, method: str, pixels: Pixels
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits ``[B, classes]`` in fp32, source ``[B, P]`` and tokens by block ``[B, L]``."""
    with torch.inference_mode(), install(model, build(method, **SETTINGS[method])) as trace:
        trace.name_images(pixels.ids)
        logits = model(pixels.images).float()
    return logits, trace.source, trace.lengths.T


def measured(model: torch.nn.Module, method: str, batches: list[Pixels]) -> dict[str, Any]:
    """Images reduced otherwise, and the greatest difference of a logit."""
    otherwise, most = 0, 0.0
    for pixels in batches:
        whole = forward(model, method, pixels)
        for i, name in enumerate(pixels.ids):
            alone = forward(model, method, Pixels(pixels.images[i : i + 1], (name,)))
            most = max(most, float((alone[0][0] - whole[0][i]).abs().max()))
            otherwise += any(
                not torch.equal(a[0], w[i]) for a, w in zip(alone[1:], whole[1:], strict=True)
            )
    return {"otherwise": otherwise, "logit": most}


def column(options: Any, dtype: str) -> dict[str, Any]:
    """All methods in one dtype, on this machine as it is."""
    loaded = load_model(MODEL, weights=options.weights, device=options.device, dtype=dtype)
    batches = contenders.batches_of(options.data, loaded, options.batches, options.batch_size)
    found = {name: measured(loaded.model, name, batches) for name in SETTINGS}
    machine = provenance.machine(options.device) | provenance.kernels(options.device)
    return {"machine": machine, "methods": found}


def main() -> None:
    parser = contenders.parser(__doc__, rounds=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--into", type=Path, help="page that has the table between its marks")
    parser.add_argument("--column", choices=COLUMNS, help="this one alone, as JSON to the output")
    options = parser.parse_args()
    if options.column:
        print(json.dumps(column(options, COLUMNS[options.column][0])))
        return
    columns = {}
    for head, (_, environment) in COLUMNS.items():
        command = [sys.executable, *sys.argv, "--column", head]
        env = {**os.environ, **environment}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        columns[head] = json.loads(done.stdout.splitlines()[-1])
    report = {"images": options.batches * options.batch_size, "columns": columns}
    name = f"batch_invariance-{options.device}.json"
    options.out = options.out or Path(__file__).parent / name
    contenders.write(report, options, "batch_invariance")
    found = table({head: one["methods"] for head, one in columns.items()}, SETTINGS)
    print(found)
    if options.into:
        put(options.into, found, "batch invariance")


if __name__ == "__main__":
    main()
