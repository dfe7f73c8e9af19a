"""EViT against vectors made by its authors' code."""

from __future__ import annotations

import golden_vit as g
import torch

from asap_eval.method import Need
from asap_eval.methods.evit import Evit, attentiveness
from asap_eval.tokens import Reduction


@g.files("evit", "fn_*")
def test_a_block(stem: str) -> None:
    golden = g.read("evit", stem)
    meta, half = golden.metadata, g.halfway(golden)
    reduction = half.decide(Evit(meta["keep_rate"], blocks=[0], fuse=meta["fuse"]))
    x, size = half.finish(reduction)
    assert x.shape[1] == meta["tokens_out"]
    g.close(x, golden["out"])
    if "topk_idx" not in golden.tensors:  # nothing to drop: no fused token either
        assert torch.equal(reduction.group, Reduction.identity(half.tokens.size).group)
        return
    g.close(attentiveness(half.reads[Need.CLS_ROW], 1), golden["cls_attn_mean"])
    group, keep = reduction.group[:, 1:], golden["topk_idx"].shape[1]
    assert keep == meta["left_tokens"]
    slots = torch.arange(1, 1 + keep).expand(len(group), -1)
    assert torch.equal(group.gather(1, golden["topk_idx"]), slots)
    rest = group.gather(1, golden["complement"])
    assert torch.equal(rest, torch.full_like(rest, 1 + keep if meta["fuse"] else -1))
    if meta["fuse"]:
        assert torch.equal(size[:, -1], torch.full((len(x),), float(rest.shape[1])))


@g.files("evit", "model_*")
def test_models(stem: str) -> None:
    golden = g.read("evit", stem)
    setting = golden.metadata["setting"]
    options = {"k": setting["k"], "blocks": setting["locs"], "fuse": setting["fuse"]}
    g.compare(golden, g.run(golden.metadata["model"], "evit", **options))
