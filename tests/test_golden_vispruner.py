"""VisPruner against vectors made by its authors' code."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.vispruner import important_and_diverse


@g.files("vispruner", "fn_*", "vispruner/in_576x1024", "common/clip_64x48")
def test_functions(stem: str) -> None:
    """The wide input was searched to be robust: elsewhere rounding changes what is kept."""
    golden = g.read(f"vispruner/{stem}")
    given = g.read("vispruner/in_576x1024") if "576" in stem else g.inputs(stem)
    score = given["cls_attn"].mean(1)[:, 1:]
    important, diverse = important_and_diverse(
        score, given["hidden"][:, 1:], int(golden["T"]), float(golden["ratio"])
    )
    first = torch.zeros_like(important).scatter(1, golden["important_idx_patch"].long(), True)
    assert torch.equal(important, first)
    kept = important | diverse
    assert torch.equal(kept, golden["index_mask"])
    expected = golden["kept_idx_patch"].long()
    assert torch.equal(kept.nonzero()[:, 1].view_as(expected), expected.sort(dim=1).values)
    assert not (important & diverse).any()
