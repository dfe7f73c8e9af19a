"""The reading of ToSA against its own specification's vectors (ours)."""

from __future__ import annotations

from pathlib import Path

import golden_vit as g
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import asap_eval
from asap_eval.methods import tosa_reading


@g.files("tosa", "spec_fn_*")
@torch.no_grad()
def test_a_pair_of_blocks(stem: str, tmp_path: Path) -> None:
    golden = g.read("tosa", stem)
    meta, x = golden.metadata, golden["x"]
    side = round((x.shape[1] - 1) ** 0.5)
    model = VisionTransformer(
        img_size=side, patch_size=1, embed_dim=x.shape[2], depth=2, num_heads=meta["num_heads"]
    ).eval()
    for number, block in enumerate(model.blocks, 1):
        start = f"block{number}."
        mine = {k.removeprefix(start): v for k, v in golden.tensors.items() if k.startswith(start)}
        block.load_state_dict(mine, strict=True)
    selector = {
        f"predictor.0.{name}": golden[f"selector.{name}"].contiguous()
        for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")
    }
    save_file(selector, tmp_path / "selectors.safetensors")
    seen = {}

    def forward(self: tosa_reading.Selector, scores: torch.Tensor) -> torch.Tensor:
        seen["scores"], seen["out"] = scores, plain(self, scores)
        return seen["out"]

    plain = tosa_reading.Selector.forward
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _args, out: outputs.append(out))
    options = {"k": meta["k"], "checkpoint": str(tmp_path / "selectors.safetensors")}
    with asap_eval.reduce(model, "tosa_reading", **options) as trace:
        tosa_reading.Selector.forward = forward  # type: ignore[method-assign]
        try:
            trace.name_images([str(i) for i in range(len(x))])
            model.blocks(x)
        finally:
            tosa_reading.Selector.forward = plain  # type: ignore[method-assign]
    g.close(seen["scores"], golden["logits_first"])
    g.close(seen["out"], golden["selector_logprob"])
    g.close(seen["out"].exp().mean((1, 2)), golden["importance"])
    g.close(outputs[0], golden["after_first"])
    g.close(outputs[1], golden["after_second"])
    assert (trace.attention_tokens[1] == golden["kept"].shape[1]).all()
    skipped = torch.ones(x.shape[:2], dtype=torch.bool).scatter(1, golden["kept"], False)
    assert torch.equal(outputs[1][skipped], outputs[0][skipped])
    heads, hidden = meta["num_heads"], meta["hidden_heads"]
    own = x.shape[1] ** 2 * (2 * heads * hidden + x.shape[2])
    assert trace.method_macs.tolist() == [own] * len(x)
