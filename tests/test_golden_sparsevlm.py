"""SparseVLM against vectors made by its authors' code (version 1.5)."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods import sparsevlm
from asap_eval.tokens import combine


@g.files("sparsevlm", "fn_select_*")
def test_selection(stem: str) -> None:
    golden = g.read(f"sparsevlm/{stem}")
    chosen, score = sparsevlm.raters(golden["h_vis"][0], golden["h_txt"][0])
    g.close(score, golden["rater_score"][0], 1e-6)
    assert torch.equal(chosen.nonzero().flatten(), golden["rater_idx"])

    if "attn_text_rows" in golden:
        rows = golden["attn_text_rows"].mean(1)
    else:
        rows = golden["attn_text_rows_headmean"]
    start, count = int(golden["v_start"]), golden["visual_mask"].shape[1]
    relation = rows[0, chosen].mean(0)[start : start + count]
    g.close(relation, golden["relation"][0], 1e-6)

    keep = int(golden["keep"])
    slot, _ = sparsevlm.sparsify(relation, golden["h_vis"][0], keep)
    kept = (slot >= 0) & (slot < keep)
    assert torch.equal(kept, golden["visual_mask"][0])


@g.files("sparsevlm", "fn_cluster_*")
def test_clusters(stem: str) -> None:
    golden = g.read(f"sparsevlm/{stem}")
    x, expected = golden["x"][0], golden["merged"][0]
    centres = int(golden["cluster_num"])
    assert centres == len(expected)
    for noise in (0.0, torch.rand(len(x)) * sparsevlm.CENTRE_NOISE):
        member = sparsevlm.cluster(x, centres, noise)
        weight = 1 / (member.bincount().float()[member] + 1e-6)
        g.close(combine(x, member, weight, centres), expected, 1e-5)
