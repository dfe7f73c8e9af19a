"""PPT against vectors made by its authors' code."""

from __future__ import annotations

import golden_vit as g
import pytest
import torch
from torch import Tensor

from asap_eval.method import Need
from asap_eval.methods import ppt
from asap_eval.methods.ppt import Ppt, significance

NEVER, ALWAYS = 0.0, 1e9
"""Thresholds: never pool, always pool."""


@g.files("ppt", "fn_*")
def test_scores(stem: str) -> None:
    golden = g.read("ppt", stem)
    score = significance(golden["attn"][:, :, 0], golden["v"], 1)
    g.close(score, golden["score"])
    g.close(score.var(1), golden["score_var"], 1e-9)


@g.files("ppt", "fn_*")
@pytest.mark.parametrize("unit", [False, True], ids=["sized", "unit"])
@pytest.mark.parametrize("policy", ["prune", "pool", "mixed"])
def test_a_block(stem: str, policy: str, unit: bool) -> None:
    golden = g.read("ppt", stem)
    suffix = "_unit" if unit else ""
    half = g.halfway(golden, None if unit else golden["size_in"])
    cls_row, values, keys = (half.reads[n] for n in (Need.CLS_ROW, Need.VALUES, Need.KEYS))
    score = significance(cls_row, values, 1)
    g.close(score, golden[f"block_score{suffix}"][:, 1:])
    g.close(score.var(1), golden[f"block_score_var{suffix}"], 1e-9)
    g.close(keys.mean(1), golden[f"block_metric{suffix}"])

    mixed = golden.metadata[f"thr_mixed{suffix}"]
    threshold = {"prune": NEVER, "pool": ALWAYS, "mixed": mixed}[policy]
    reduction = half.decide(Ppt(golden.metadata["r"], blocks=[0], threshold=threshold))
    pruned = (reduction.group < 0).any(1)
    if policy == "mixed":
        assert torch.equal(~pruned, golden[f"is_pooled_mixed{suffix}"])
    else:
        assert torch.equal(pruned, torch.full_like(pruned, policy == "prune"))
    if not unit:
        kept = kept_tokens(reduction.group[pruned], golden["prune_keep_indices"].shape[1])
        assert torch.equal(kept, golden["prune_keep_indices"][pruned])
    if unit and policy != "mixed":
        return  # the files hold the outputs of a mixed batch only
    x, size = half.finish(reduction)
    g.close(x, golden[f"out_{policy}{suffix}_x"])
    g.close(size, golden[f"out_{policy}{suffix}_size"][..., 0])


def kept_tokens(group: Tensor, slots: int) -> Tensor:
    """``[b, S]`` the token in each slot, where no slot holds two."""
    place = torch.arange(group.shape[1]).expand(group.shape)
    order = group.argsort(dim=1)[:, group.shape[1] - slots :]
    return place.gather(1, order)


@g.files("ppt", "model_*")
def test_models(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = g.read("ppt", stem)
    name, setting = golden.metadata["model"], golden.metadata["setting"]
    options = {"r": setting["r"], "blocks": setting["locs"], "threshold": setting["thr"]}
    variances = []

    def watched(*args: object) -> Tensor:
        score = significance(*args)  # type: ignore[arg-type]
        variances.append(score.var(1))
        return score

    monkeypatch.setattr(ppt, "significance", watched)
    g.compare(golden, g.run(name, "ppt", **options))
    g.close(torch.stack(variances, 1), golden["variance_per_location"], 1e-7)
    alone = [g.run(name, "ppt", only=i, **options).logits for i in range(len(golden["logits"]))]
    g.close(torch.cat(alone), golden["logits_batch1"], g.LOGITS)
