"""What the QueCC projector would cost in LLaVA-1.5-7B, as Markdown; shapes alone, no weights.

python benchmarks/quecc_cost.py [--model llava15_7b] [--question 12] [--text 60]
"""

from __future__ import annotations

import argparse

from asap_eval.hosts import llava_geometry
from asap_eval.models import model_specs
from asap_eval.models.quecc import cost_of
from asap_eval.models.vlm import shape_of
from asap_eval.work.language import unpruned_prefill

KERNELS = (2, 3, 4, 6, 8, 12, 24)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llava15_7b")
    parser.add_argument("--question", type=int, default=12, help="tokens of the question alone")
    parser.add_argument("--text", type=int, default=60, help="other tokens of the prompt")
    given = parser.parse_args()
    geometry = llava_geometry(shape_of(model_specs()[given.model]))
    plain = unpruned_prefill(geometry, geometry.tower.patches, given.text, 1)
    print("| image tokens | tower | projector | question read | prefill | all, GMACs | change |")
    print("|---|---|---|---|---|---|---|")
    whole = float(plain.total) / 1e9
    parts = [float(part) / 1e9 for part in (plain.tower, plain.projector, plain.prefill)]
    none = f"| {parts[0]:.0f} | {parts[1]:.1f} | 0.0 | {parts[2]:.0f} | {whole:.0f} |  |"
    print(f"| {geometry.tower.patches}, LLaVA's projector {none}")
    for kernel in KERNELS:
        cost = cost_of(geometry, kernel, given.question, given.text)
        own = [n / 1e9 for n in (cost.projector, cost.question, cost.prefill)]
        total = parts[0] + sum(own)
        shown = f"{parts[0]:.0f} | {own[0]:.1f} | {own[1]:.1f} | {own[2]:.0f} | {total:.0f}"
        print(f"| {cost.tokens} | {shown} | {100 * (total / whole - 1):+.1f} % |")


if __name__ == "__main__":
    main()
