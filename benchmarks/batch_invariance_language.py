"""What the batch changes in a language model: prompts together, padded, and prompt by prompt.

    python benchmarks/batch_invariance_language.py

`llava_tiny` with seeded weights, two pictures of noise and questions of different lengths. A cell
is the number of prompts that are reduced otherwise, and the greatest difference of a logit after
the prompt. The unpruned model's own difference stands in the first row.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import torch
from invariance_table import put, table
from PIL import Image

import asap_eval
from asap_eval.models import LoadedVlm, load_vlm
from asap_eval.runner import provenance

MODEL = "llava_tiny"
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
QUESTIONS = ("What is it?", "Which of all these many colours is seen most often, and where is it?")

SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "dart": {"k": 40},
    "divprune": {"k": 20},
    "fastv": {"k": 20, "layer": 3},
    "pyramiddrop": {},
    "shift_reading": {"k": 30},
    "sparsevlm": {"keep": [60, 30, 12]},
    "fna_decoder": {"m": 60},
}


def pictures() -> list[Image.Image]:
    """Noise, coarse enough to survive the processor's resizing."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 255, (len(QUESTIONS), 30, 40, 3), dtype=np.uint8)
    return [Image.fromarray(cell).resize((400, 300)) for cell in cells]


@torch.no_grad()
def answered(loaded: LoadedVlm, method: str, chosen: list[int]) -> tuple[torch.Tensor, Any]:
    """Logits ``[S, V]`` after the prompts in fp32, and the trace."""
    shown = pictures()
    given = loaded.inputs([shown[i] for i in chosen], [QUESTIONS[i] for i in chosen])
    with asap_eval.reduce(loaded.model, method, **SETTINGS[method]) as trace:
        out = loaded.model.generate(
            **given,
            max_new_tokens=1,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return out.logits[0].float(), trace


def measured(loaded: LoadedVlm, method: str) -> dict[str, Any]:
    """Prompts reduced otherwise, and the greatest difference of a logit."""
    both = list(range(len(QUESTIONS)))
    whole, trace = answered(loaded, method, both)
    otherwise, most = 0, 0.0
    for place in both:
        alone, own = answered(loaded, method, [place])
        most = max(most, float((alone[0] - whole[place]).abs().max()))
        if method != "none":
            mine = own.language.source[0]
            otherwise += not torch.equal(mine, trace.language.source[place][: len(mine)])
    return {"otherwise": otherwise, "logit": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file; one beside the script without it")
    parser.add_argument("--into", type=Path, help="page that has the table between its marks")
    options = parser.parse_args()
    columns = {}
    for head, dtype in DTYPES.items():
        loaded = load_vlm(MODEL, device=options.device, dtype=dtype)
        columns[head] = {name: measured(loaded, name) for name in SETTINGS}
    machine = provenance.machine(options.device) | provenance.kernels(options.device)
    name = "batch_invariance_language"
    options.out = options.out or Path(__file__).parent / f"{name}-{options.device}.json"
    contenders.write({"machine": machine, "columns": columns}, options, name)
    found = table(columns, SETTINGS)
    print(found)
    if options.into:
        put(options.into, found, "batch invariance, language")


if __name__ == "__main__":
    main()
