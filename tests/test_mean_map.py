"""The GPU's kernel for head-mean maps, run by Triton's interpreter on a CPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from asap_eval.kernels.mean_map import mean_maps

generator = torch.Generator().manual_seed(0)
shapes = (
    (64, 3, (37, 37, 37)),
    (72, 1, (20, 9, 66)),
    (48, 2, (50, 70, 3)),
    (32, 1, (1, 130, 64)),
    (136, 1, (17, 5, 18)),
)
for dtype, atol in ((torch.float32, 5e-7), (torch.float16, 5e-7)):
    for width, heads, lengths in shapes:
        total, places = sum(lengths), torch.tensor(lengths)
        made = torch.randn(total, 3, heads, width, generator=generator).to(dtype)
        q, k, _ = made.unbind(1)
        starts = places.cumsum(0) - places
        for bias in (None, 3 * torch.rand(total, generator=generator)):
            images = torch.tensor([0, 2])
            longest = max(lengths[0], lengths[2])
            packed, padded = torch.zeros(heads, total), torch.zeros(3, heads, max(lengths) + 5)
            wanted = torch.zeros(2, longest, longest, dtype=torch.float64)
            for i, n in enumerate(lengths):
                own = slice(int(starts[i]), int(starts[i]) + n)
                logits = torch.einsum("nhd,mhd->hnm", q[own].double(), k[own].double())
                logits = logits * width**-0.5
                if bias is not None:
                    logits = logits + bias[own].double()
                packed[:, own] = padded[i, :, :n] = logits.logsumexp(-1).float()
                if i != 1:
                    wanted[i // 2, :n, :n] = logits.softmax(-1).mean(0)
            for lse in (packed, padded):
                out = torch.full((2, longest, longest + 3), float("nan"))[:, :, :longest]
                mean_maps(q, k, bias, lse, lse is packed, images, starts, places, out)
                torch.testing.assert_close(out.double(), wanted, rtol=0, atol=atol)
print("done")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="this torch has no Triton")
def test_maps_equal_softmax_in_fp64() -> None:
    root = Path(__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "done"
