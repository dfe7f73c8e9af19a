"""Our reading of CAPA against vectors of its formulas (ours: no code was at hand)."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.capa_reading import channelwise, contribution


@g.files("capa_reading", "fn_score_*")
def test_scores(stem: str) -> None:
    golden = g.read(f"capa_reading/{stem}")
    score = contribution(golden["rows"], golden["values"], golden["o_proj"])
    g.close(score, golden["score"], 1e-5)
    kept = score.argsort(descending=True, stable=True)[: int(golden["k"])].sort().values
    assert torch.equal(kept, golden["kept_idx"].long())


@g.files("capa_reading", "fn_ffn_*")
def test_the_fit_of_an_mlp(stem: str) -> None:
    golden = g.read(f"capa_reading/{stem}")
    scale, shift = channelwise(golden["x"], golden["y"])
    g.close(scale.float(), golden["scale"])
    g.close(shift.float(), golden["shift"])
    g.close((golden["x"] * scale + shift).float(), golden["approximation"])
