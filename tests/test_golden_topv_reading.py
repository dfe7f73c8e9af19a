"""Our reading of TopV against vectors of its formulas (ours: no code of the authors is public)."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.topv_reading import TopVReading, moved, top_and_recovered


@g.files("topv_reading", "fn_*")
def test_functions(stem: str) -> None:
    golden = g.read(f"topv_reading/{stem}")
    rows, columns = golden["grid"].tolist()
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    method = TopVReading()
    importance = moved(method.cost(golden["source"], golden["target"], place), method.epsilon)
    g.close(importance.float(), golden["importance"], 1e-5)
    kept = top_and_recovered(importance, int(golden["top"]), int(golden["recover_every"]))
    assert torch.equal(kept, golden["kept_mask"])
