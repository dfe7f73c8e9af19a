"""AS-ViT's scores and rule against vectors made by its authors' code."""

from __future__ import annotations

import json
from pathlib import Path

import golden_vit as g
import pytest
import torch

from asap_eval.methods.asvit import score


@g.files("asvit", "fn_*")
def test_scores(stem: str) -> None:
    golden = g.read("asvit", stem)
    x, heads = golden["x"], golden.metadata["num_heads"]
    qkv = torch.nn.functional.linear(x, golden["attn.qkv.weight"], golden["attn.qkv.bias"])
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    logits = q @ k.mT * q.shape[-1] ** -0.5
    # In training masked tokens take part with a weight of nearly nothing; every token sees itself.
    policy = golden["policy"][:, None, None, :, 0]
    own = torch.eye(x.shape[1])
    raised = (logits - logits.amax(-1, keepdim=True)).exp() * (policy + (1 - policy) * own)
    masked = (raised + 1e-6 / x.shape[1]) / (raised.sum(-1, keepdim=True) + 1e-6)
    for maps, suffix in ((logits.softmax(-1), ""), (masked, "_policy")):
        out = maps @ v
        found = score(maps[:, :, 0], out.norm(dim=-1))[:, 1:]
        g.close(found, golden[f"score{suffix}"])
        joined = out.transpose(1, 2).flatten(2)
        projected = torch.nn.functional.linear(
            joined, golden["attn.proj.weight"], golden["attn.proj.bias"]
        )
        g.close(projected, golden[f"out{suffix}"])
    over = golden["score"] > golden.metadata["threshold"]
    assert torch.equal(over, golden["train_hard_decision"].bool())


@g.files("asvit", "model_*")
def test_every_image_by_itself(stem: str) -> None:
    golden = g.read("asvit", stem)
    options = {
        "blocks": golden.metadata["setting"]["pruning_loc"],
        "thresholds": golden["thresholds"].double().tolist(),
    }
    got = g.run(golden.metadata["model"], "asvit", **options)
    g.close(got.logits, golden["logits_batch1"], g.LOGITS)
    # They count behind the block that patches are dropped before.
    assert torch.equal(got.trace.mlp_tokens.T, golden["token_count_batch1"])
    for index, tokens in enumerate(got.blocks):
        if f"block{index}_img0_batch1" in golden.tensors:
            expected = golden[f"block{index}_img0_batch1"]
            if index + 1 in options["blocks"]:
                continue  # here they are gone already
            g.close(tokens[:1, : expected.shape[1]], expected, g.LOGITS)


@pytest.mark.golden("golden/image/asvit/deit_small_state_dict_keys.json")
def test_a_checkpoint_is_plain_deit_and_three_thresholds(shared: Path) -> None:
    keys = json.loads((shared / "golden/image/asvit/deit_small_state_dict_keys.json").read_text())
    extra = sorted(key for key in keys if "score_predictor" in key)
    assert extra == [f"score_predictor.{place}.keep_threshold" for place in range(3)]
