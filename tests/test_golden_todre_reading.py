"""Our reading of ToDRE against vectors of its formulas (ours: no code of the authors is public)."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.todre_reading import diverse, on_image


@g.files("todre_reading", "fn_stage1_*")
def test_what_enters_the_language_model(stem: str) -> None:
    golden = g.read(f"todre_reading/{stem}")
    got = diverse(golden["cls_attn"], golden["x"], int(golden["k"]))
    assert torch.equal(got, golden["order"].long())


@g.files("todre_reading", "fn_stage2_*")
def test_when_all_tokens_go(stem: str) -> None:
    golden = g.read(f"todre_reading/{stem}")
    rows, start = golden["text_rows"], int(golden["image_start"])
    place = torch.arange(rows.shape[2])
    image = (place >= start) & (place < start + int(golden["image_count"]))
    share = on_image(rows, image, rows.shape[1])
    g.close(share, golden["ratio_text_to_image"], 1e-5)
    assert bool(share < float(golden["tau"])) == bool(golden["remove"])
