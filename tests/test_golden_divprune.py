"""DivPrune against vectors made by its authors' code."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.divprune import DivPrune, farthest
from asap_eval.methods.parts.greedy import cosines


@g.files("divprune", "fn_*")
def test_functions(stem: str) -> None:
    golden = g.read(f"divprune/{stem}")
    x, order = golden["x"], golden["order"].long()
    count = DivPrune(r=float(golden["ratio"])).kept(len(x))
    assert torch.equal(farthest(cosines(x)[None], count)[0], order)


@g.files("divprune", "module_*", "host/*", "host/llava*/*")
def test_models(stem: str) -> None:
    """Embeddings, logits and text; newlines of several crops are duplicates, and tie exactly."""
    golden = g.read(f"divprune/{stem}")
    images, _, ratio = stem.removeprefix("module_").rpartition("_r")
    got = g.answer(images, 8, "divprune", r=float(ratio))
    whole, order = int(golden["image_tokens"]), golden["order"].long()
    source = got.trace.language.source[0]
    assert len(source) == whole == int(got.trace.handed_to_llm)
    kept = (source >= 0).nonzero().flatten()
    assert torch.equal(kept, order.sort().values)
    assert torch.equal(farthest(cosines(got.embeds)[None], len(order))[0], order)
    g.close(got.embeds[kept], golden["image_embeds"])
    g.close(got.logits, golden["last_logits"], g.LOGITS)
    assert torch.equal(got.ids, golden["greedy_ids"][-len(got.ids) :])
