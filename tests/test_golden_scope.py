"""SCOPE against vectors made by its authors' code."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.parts.greedy import chosen_mask, cosines
from asap_eval.methods.scope import covering


@g.files("scope", "fn_*")
def test_functions(stem: str) -> None:
    golden = g.read(f"scope/{stem}")
    order = golden["order"].long()
    weight = golden["cls_attn_sum"].double()
    assert order.shape[1] == int(golden["T"])
    assert torch.equal(covering(cosines(golden["features"]), weight, order.shape[1]), order)


@g.files("scope", "module_*", "host/*", "host/llava*/*")
def test_models(stem: str) -> None:
    golden = g.read(f"scope/{stem}")
    images, _, count = stem.removeprefix("module_").rpartition("_T")
    order = golden["order"].long()
    assert order.shape[1] == int(count) // len(order)
    got = g.answer(images, 8, "scope", k=order.shape[1])
    assert torch.equal(got.trace.source >= 0, chosen_mask(order, 576))
    g.compare(golden, got)
