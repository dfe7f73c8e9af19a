"""Zero-TPrune against an fp64 evaluation of the same reading: no authors' code is public."""

from __future__ import annotations

import math

import golden_vit as g
import pytest
import tiny
import torch

import asap_eval
from asap_eval.errors import BadValueError
from asap_eval.hosts import geometry_of, install
from asap_eval.method import Need
from asap_eval.methods.zero_tprune import (
    ZeroTPrune,
    heads_inside,
    importance,
    most_similar,
    page_rank,
)
from asap_eval.trace import Trace
from asap_eval.work.macs import model_macs, unpruned_macs

BOUNDS = ("scaled", 0.01, 0.7)


@g.files("zero_tprune", "spec_*")
def test_functions(stem: str) -> None:
    golden = g.read("zero_tprune", stem)
    attention, keys = golden["attn"], golden["key"]
    for steps in (1, 5, 30):
        g.close(page_rank(attention, steps), golden[f"wpr_T{steps}"])
    g.close(page_rank(attention, 5, heavy_cls=True), golden["wpr_T5_cls_sqrtN_init"])

    ranks = page_rank(attention, 5)
    scaled = ranks * ranks.shape[-1]
    g.close(scaled.var(-1, unbiased=False), golden["head_variance_of_N_times_s"])
    heads = heads_inside(ranks, *BOUNDS)
    assert torch.equal(heads, golden["head_keep"])
    if ranks.shape[-1] > 100:  # scores that sum to 1 cannot vary so much: all heads count
        assert heads_inside(ranks, "raw", *BOUNDS[1:]).all()
    g.close(importance(ranks, torch.ones_like(heads)), golden["eir_all_heads"])
    score = importance(ranks, heads)
    g.close(score, golden["eir_filtered"])

    keep = math.ceil(0.7 * (score.shape[1] - 1))
    best = score[:, 1:].topk(keep).indices.sort().values + 1
    assert torch.equal(best, golden["i_stage_keep_idx_0p7"])
    pruned = most_similar(score[:, 1:], keys.mean(1)[:, 1:], golden.metadata["r"])
    expected = torch.zeros_like(pruned).scatter_(1, golden["s_stage_pruned_idx"] - 1, True)
    assert torch.equal(pruned, expected)


def test_heads_are_filtered_by_population_variance() -> None:
    spread = (torch.tensor([0.005, 0.02, 0.5, 0.69, 0.71]) / 4).sqrt()  # of N x score, N = 2
    ranks = torch.stack([0.5 - spread, 0.5 + spread], -1)[None]
    assert heads_inside(ranks, *BOUNDS).tolist() == [[False, True, True, True, False]]
    assert heads_inside(ranks[:, :1], *BOUNDS).all()  # none is inside: all count
    assert heads_inside(ranks, "off", 0.01, 0.7).all()


def test_stages_in_their_order() -> None:
    """Similarity prunes inside the less important half, importance among what it left."""
    model, x = tiny.large(3), tiny.images(4, size=32, seed=4)
    options = {"after": [2], "rates": [0.5], "iterations": [3], "similar": 7}
    seen = {}

    class Spy(ZeroTPrune):
        def decide(self, view, state):  # type: ignore[no-untyped-def]
            seen.update({need: view.read(need) for need in self.needs})
            return super().decide(view, state)

    with install(model, Spy(**options)) as trace:
        tiny.output(model, x)
    ranks = page_rank(seen[Need.HEAD_ATTENTION], 3)
    score = importance(ranks, heads_inside(ranks, *BOUNDS))[:, 1:]
    keys = seen[Need.KEYS].mean(1)[:, 1:]
    for i in range(len(x)):
        by_score = score[i].argsort().tolist()
        less, more = by_score[:32], by_score[32:]
        cosine = torch.nn.functional.cosine_similarity(keys[i, less, None], keys[i, more], dim=-1)
        gone = {less[n] for n in cosine.amax(1).topk(7).indices.tolist()}
        left = sorted(set(range(64)) - gone, key=lambda n: -float(score[i, n]))
        kept = sorted(left[: math.ceil(0.5 * 57)])
        assert (trace.source[i] >= 0).nonzero().flatten().tolist() == kept
        # 3 steps over 65 x 65 of 3 heads, and 32 x 32 products of keys of width 16
    assert trace.method_macs.tolist() == [3 * 3 * 65**2 + 32 * 32 * 16] * 4


def test_the_quoted_configuration_costs_what_it_should() -> None:
    """DeiT-S at the default: about a third less, the share its description gives."""
    import timm

    with torch.device("meta"):
        geometry = geometry_of(timm.create_model("deit_small_patch16_224", pretrained=False))
    lengths, count = [], 197
    plan = dict(zip(ZeroTPrune.after, ZeroTPrune.rates, strict=True))
    for block in range(1, 13):
        if block in plan:
            count = 1 + math.ceil(plan[block] * (count - 1 - ZeroTPrune.similar))
        lengths.append(count)
    entered = torch.tensor([[197, *lengths[:-1]]]).T
    trace = Trace()
    seen = trace.start(12, torch.zeros(1, 196).long())
    seen.values |= {"attention_tokens": entered, "mlp_tokens": entered}
    seen.values["lengths"] = torch.tensor([lengths]).T
    seen.done = 12
    share = float(model_macs(geometry, trace)[0]) / unpruned_macs(geometry) - 1
    assert share == pytest.approx(-0.32, abs=0.005)


def test_k_scales_the_rates_below_one() -> None:
    plan = ZeroTPrune(k=0.5).begin(None)  # type: ignore[arg-type]
    assert [rate for rate, _ in plan.values()] == [1.0, 0.45, 0.4, 0.35, 1.0]
    assert [rate for rate, _ in ZeroTPrune(k=1.2).begin(None).values()][1:3] == [1.0, 0.96]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "layers 1 to 5"),
        ({"k": 0.0}, "factor"),
        ({"after": [1, 2]}, "one entry for each layer"),
        ({"after": [2], "rates": [1.5], "iterations": [1]}, "shares"),
        ({"after": [2], "rates": [0.5], "iterations": [0]}, "whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], said: str) -> None:
    model = tiny.vit(1)
    with (
        pytest.raises(BadValueError, match=said),
        asap_eval.reduce(model, "zero_tprune", **options),  # type: ignore[arg-type]
    ):
        tiny.output(model, tiny.images(1))
