"""SparseVLM against vectors made by its authors' code (version 1.5)."""

from __future__ import annotations

from typing import Any

import golden_vlm as g
import pytest
import torch
from torch import Tensor

from asap_eval.method import Batch
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
    generator = torch.Generator().manual_seed(0)
    for noise in (0.0, torch.rand(len(x), generator=generator) * sparsevlm.CENTRE_NOISE):
        member = sparsevlm.cluster(x, centres, noise)
        weight = 1 / (member.bincount().float()[member] + 1e-6)
        g.close(combine(x, member, weight, centres), expected, 1e-5)


@g.files("sparsevlm", "module_v15_*")
def test_what_each_layer_keeps(stem: str) -> None:
    """From the authors' scores of the layer, whatever merged tokens are among the candidates."""
    golden = g.read(f"sparsevlm/{stem}")
    for layer, keep in zip((2, 6, 15), sparsevlm.KEEP[int(stem.rpartition("_")[2])], strict=True):
        score, mask = golden[f"relation_layer{layer}"], golden[f"mask_layer{layer}"]
        slot, _ = sparsevlm.sparsify(score, torch.zeros(len(score), 4), keep)
        kept = (slot >= 0) & (slot < keep)
        assert torch.equal(kept, mask)
        left = int(slot.max()) + 1
        text = 35 + 21
        assert left + text == int(golden["cache_len"][layer + 1])


@g.files("sparsevlm", "module_v15_*", "host/*", "host/llava/*")
@pytest.mark.parametrize("noise", [True, False], ids=["noise", "no noise"])
def test_models(stem: str, noise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the authors' noise, drawn as theirs from seed 0, all is theirs. Without it the clusters
    of some layers are others where densities underflow: of the list for 64 tokens."""
    golden = g.read(f"sparsevlm/{stem}")
    if noise:
        generator = torch.Generator().manual_seed(0)
        monkeypatch.setattr(Batch, "generator", lambda *_: generator)
    seen: list[tuple[Tensor, Tensor]] = []
    rated: list[Tensor] = []

    def sparsify(score: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        slot, weight = original(score, *args)
        seen.append((score, slot))
        return slot, weight

    def raters(*args: Tensor) -> tuple[Tensor, Tensor]:
        chosen, score = original_raters(*args)
        rated.append(chosen)
        return chosen, score

    original, original_raters = sparsevlm.sparsify, sparsevlm.raters
    monkeypatch.setattr(sparsevlm, "sparsify", sparsify)
    monkeypatch.setattr(sparsevlm, "raters", raters)
    budget = int(stem.rpartition("_")[2])
    got = g.answer("pixels15", 6, "sparsevlm", k=budget, noise=noise)
    trace = got.trace.language
    assert torch.equal(trace.attention_tokens[:, 0], golden["cache_len"])
    assert torch.equal(trace.attention_tokens[:, 0], golden["seq_len_at_layer_input"])
    assert torch.equal(rated[0].nonzero().flatten(), golden["rater_idx"])
    positions = golden["pos_ids_layer16"]
    assert torch.equal(positions, torch.arange(int(trace.lengths[-1])))
    same = (2, 6, 15) if noise or budget > 64 else (2,)
    for layer, keep, (score, slot) in zip((2, 6, 15), sparsevlm.KEEP[budget], seen, strict=False):
        if layer in same:
            g.close(score, golden[f"relation_layer{layer}"])
            assert torch.equal((slot >= 0) & (slot < keep), golden[f"mask_layer{layer}"])
    if len(same) == 3:
        g.compare(golden, got)
        g.close(got.hidden, golden["last_hidden_last_tok"], g.LOGITS)
