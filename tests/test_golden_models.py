"""The models behind the model-level vectors, without a reduction."""

from __future__ import annotations

import golden_vit as g
import pytest
import torch


@pytest.mark.parametrize(
    "stem",
    [
        pytest.param(name, marks=pytest.mark.golden(f"golden/image/models/{name}*.safetensors"))
        for name in ("m50", "m197", "m51d")
    ],
)
def test_unpruned_models_give_the_recorded_logits(stem: str) -> None:
    golden, got = g.read("models", f"{stem}_io"), g.run(stem, "none")
    g.close(got.logits, golden["logits_plain"], g.LOGITS)
    for index, tokens in enumerate(got.blocks):
        if f"block{index}_plain_img0" in golden.tensors:
            g.close(tokens[:1], golden[f"block{index}_plain_img0"], g.LOGITS)
    if "tokens_after_last_block_plain" in golden.tensors:
        g.close(got.blocks[-1], golden["tokens_after_last_block_plain"], g.LOGITS)
    assert torch.equal(g.held(got), torch.ones(got.blocks[-1].shape[:2]))
