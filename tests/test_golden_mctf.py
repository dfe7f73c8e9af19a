"""MCTF against vectors made by its authors' code."""

from __future__ import annotations

import golden_vit as g
import torch

from asap_eval.hosts.projections import fuse_maps
from asap_eval.methods.mctf import alone, criteria, pairs
from asap_eval.tokens import Reduction, Tokens


@g.files("mctf", "fn_*")
def test_fusing(stem: str) -> None:
    golden = g.read("mctf", stem)
    meta, x = golden.metadata, golden["x"]
    size = golden["size_in"][..., 0] if "size_in" in golden.tensors else torch.ones(x.shape[:2])
    received = golden["attn"].mean((1, 2))
    roots = (meta["tau_sim"], meta["tau_info"], meta["tau_size"])
    scores = criteria(x, received, size, roots, 1)
    g.close(scores.clamp(min=-9), golden["score_matrix_A_by_B"])
    group = pairs(scores, meta["r"], 1, bool(meta["bidirection"]))
    slots = x.shape[1] - meta["r"]
    held = (group[:, None] == torch.arange(slots)[:, None]).float()
    assert torch.equal(held, golden["source"])
    weight = received * size / size.amax(1, keepdim=True)
    total = torch.zeros_like(weight).scatter_add_(1, group, weight)
    weight = alone(group, weight / total.gather(1, group))
    start = Tokens(x, size, Tokens.start(x, 1).source, 1)
    after = start.apply(Reduction(group, weight))
    g.close(after.x, golden["out_x"])
    g.close(after.size, golden["out_size"][..., 0])
    g.close(fuse_maps(golden["attn"], group, weight, slots), golden["out_attn"])


@g.files("mctf", "model_*")
def test_models(stem: str) -> None:
    golden = g.read("mctf", stem)
    setting = golden.metadata["setting"]
    options = {
        "r": float(setting["r"]),
        "blocks": setting["blocks"],
        "ahead": ("none", "fused", "precise")[setting["one_step_ahead"]],
        "tau_sim": float(setting["tau_sim"]),
        "tau_info": float(setting["tau_info"]),
        "tau_size": float(setting["tau_size"]),
        "both": bool(setting["bidirection"]),
        "pool": ("size", "attention")[setting["pooling_type"]],
    }
    got = g.run(golden.metadata["model"], "mctf", **options)
    g.compare(golden, got)
    assert torch.equal(got.trace.source, golden["source_final"].argmax(1)[:, got.prefix :])
    g.alone(golden, "mctf", options)
