"""CDPruner against vectors made by its authors' code."""

from __future__ import annotations

from types import SimpleNamespace

import golden_vlm as g
import pytest
import torch
from torch import Tensor

from asap_eval.methods.cdpruner import conditional, relevance
from asap_eval.methods.parts import clip_text
from asap_eval.methods.parts.greedy import chosen_mask, cosines


@g.files("cdpruner", "fn_*")
def test_functions(stem: str) -> None:
    golden = g.read(f"cdpruner/{stem}")
    score = relevance(golden["image_embeds"], golden["text_embeds"])
    g.close(score.float(), golden["relevance"].float(), 1e-5)
    order, found = conditional(cosines(golden["image_features"]), score, int(golden["T"]))
    assert torch.equal(order, golden["order"].long())
    assert (found == int(golden["T"])).all()
    assert torch.equal(chosen_mask(order, score.shape[1]), golden["index_mask"])


@g.files("cdpruner", "module_*", "host/*", "host/llava*/*")
def test_models(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the given projection and text: the golden models have no CLIP text side."""
    golden = g.read(f"cdpruner/{stem}")
    images = stem.removeprefix("module_").rpartition("_")[0]
    tower = g.model("llava_next" if images.startswith("next") else "llava").model.vision_tower
    weight = golden["visual_projection"]
    projection = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    projection.weight = torch.nn.Parameter(weight)

    class Given(clip_text.TextSide):
        def embed(self, text: str) -> Tensor:
            assert text == "asked"
            return golden["text_embeds"]

        def macs(self, segments: int) -> int:
            return 0

    vision = SimpleNamespace(post_layernorm=tower.post_layernorm)
    side = Given(SimpleNamespace(vision_model=vision, visual_projection=projection), None)
    monkeypatch.setattr(clip_text, "given", lambda *_: side)
    got = g.answer(images, 8, "cdpruner", questions=["asked"], k=int(golden["T"]))
    g.compare(golden, got)
    assert torch.equal(got.trace.source >= 0, golden["index_mask"])
    assert (got.trace.notes["filled"] == 0).all()
