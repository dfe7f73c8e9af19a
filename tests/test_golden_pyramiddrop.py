"""PyramidDrop against vectors made by its authors' code."""

from __future__ import annotations

from typing import Any

import golden_vlm as g
import pytest
import torch

from asap_eval.method import View
from asap_eval.methods.pyramiddrop import PyramidDrop, Stages


@g.files("pyramiddrop", "module_*", "host/*", "host/llava/*")
def test_models(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that stages go by, what they keep, caches of all layers, logits and text."""
    golden = g.read(f"pyramiddrop/{stem}")
    seen: list[Any] = []
    decide = PyramidDrop.decide

    def watched(self: PyramidDrop, view: View, state: Stages) -> Any:
        image = view.image[0]
        reduction = decide(self, view, state)
        assert reduction is not None
        seen.append((view.rows[0, :, 0].mean(0)[image], reduction.group[0][image] >= 0))
        return reduction

    monkeypatch.setattr(PyramidDrop, "decide", watched)
    options = {"layers": golden["layers"].tolist(), "ratios": golden["ratios"].tolist()}
    got = g.answer("pixels15", 8, "pyramiddrop", **options)
    assert len(seen) >= len(options["layers"])
    left = torch.arange(576)
    for stage, (row, kept) in enumerate(seen[: len(options["layers"])]):
        g.close(row, golden[f"last_row_stage{stage}"], 1e-5)
        left = left[kept]
        assert torch.equal(left, golden[f"kept_stage{stage}"].long())
    assert torch.equal(got.trace.language.cached_tokens[:, 0], golden["cache_len"])
    g.compare(golden, got)
