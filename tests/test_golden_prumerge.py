"""LLaVA-PruMerge against vectors made by its authors' code."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.prumerge import class_attention, merged, outliers
from asap_eval.tokens import mixed


@g.files("prumerge", "fn_*")
def test_functions(stem: str) -> None:
    golden = g.read(f"prumerge/{stem}")
    attention = class_attention(golden["q"], golden["k"])[0]
    g.close(attention.float(), golden["cls_attn"], 1e-5)
    top = golden["top_idx"].long()
    assert torch.equal(outliers(attention, False), top)
    kept = outliers(attention, bool(golden["plus"]))
    assert torch.equal(kept[: len(top)], top)
    slot, mix = merged(attention, golden["k"][0, 1:], kept)
    assert torch.equal(slot[kept], torch.arange(len(kept)))
    got = mixed(golden["hidden"][:, 1:], mix[None])
    g.close(got, golden["out"])


@g.files("prumerge", "module_*", "host/*", "host/llava/*")
def test_models(stem: str) -> None:
    golden = g.read(f"prumerge/{stem}")
    g.compare(golden, g.answer("pixels15", 8, "prumerge", plus=bool(golden["plus"])))


@g.files("prumerge", "module_*", "host/llava/model")
def test_what_the_tower_hands_on(stem: str) -> None:
    golden = g.read(f"prumerge/{stem}")
    g.close(g.project(golden["tower_out"])[0], golden["image_embeds"])
