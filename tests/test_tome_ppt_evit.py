"""ToMe, PPT, EViT: options, limits, and what the authors' vectors do not reach."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import tiny
import torch
from torch import Tensor

import asap_eval
from asap_eval.errors import AsapEvalError
from asap_eval.hosts import geometry_of
from asap_eval.method import Batch, build
from asap_eval.methods import ppt
from asap_eval.methods.evit import reorganise
from asap_eval.methods.parts.matching import match, match_macs, removable
from asap_eval.methods.ppt import prune, significance
from asap_eval.methods.tome import Tome
from asap_eval.trace import Trace
from asap_eval.work.macs import model_macs, unpruned_macs


def run(options: dict[str, Any], x: Tensor | None = None) -> Trace:
    """The trace of a method on a tiny model of 5 blocks and 37 tokens."""
    model, chosen = tiny.vit(1), dict(options)
    with asap_eval.reduce(model, chosen.pop("method"), **chosen) as trace:
        tiny.output(model, tiny.images(4, seed=3) if x is None else x)
    return trace


# --- schedules ------------------------------------------------------------------------------------


def test_a_fraction_removes_one_more_in_the_first_blocks() -> None:
    assert Tome(11.5).schedule(12) == [12] * 6 + [11] * 6
    assert Tome(11.75).schedule(12) == [12] * 9 + [11] * 3
    assert Tome(0.2).schedule(5) == [1, 0, 0, 0, 0]
    assert Tome(2.99).schedule(5) == [3] * 5
    lengths = run({"method": "tome", "k": 2.4}).lengths[:, 0]
    assert lengths.tolist() == [34, 31, 29, 27, 25]


def test_a_schedule_stands_in_r_or_k() -> None:
    for name in ("r", "k"):
        assert run({"method": "tome", name: [7, 0, 5]}).lengths[:, 0].tolist() == [
            30,
            30,
            25,
            25,
            25,
        ]
    by_tuple, by_name = (
        run({"method": "tome", "r": (4, -1)}),
        run({"method": "tome", "r": 4, "inflection": -1}),
    )
    assert torch.equal(by_tuple.source, by_name.source)
    assert by_name.lengths[:, 0].tolist() == [29, 23, 19, 17, 17]


def test_r_saturates_at_half_of_the_patches() -> None:
    assert run({"method": "tome", "r": 99}).lengths[:, 0].tolist() == [19, 10, 6, 4, 3]
    assert run({"method": "ppt", "r": 99, "blocks": [0, 4]}).lengths[:, 0].tolist()[::4] == [19, 10]


def test_listed_blocks_count_from_0() -> None:
    for options in ({"method": "ppt", "r": 3}, {"method": "evit", "k": 0.8}):
        assert run({**options, "blocks": [2]}).fired.tolist() == [3] * 4
    # Without a list: a quarter, a half and three quarters of 5 blocks.
    counts = run({"method": "evit", "k": 0.5, "fuse": False}).lengths[:, 0]
    assert counts.tolist() == [37, 19, 10, 6, 6]


# --- prefix tokens --------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", range(6))
@pytest.mark.parametrize("tokens", [17, 18])
def test_matching_leaves_any_prefix_alone(prefix: int, tokens: int) -> None:
    g = torch.Generator().manual_seed(prefix)
    metric = torch.randn(3, tokens, 8, generator=g)
    metric[:, prefix:] += 5 * torch.randn(1, 1, 8, generator=g)
    metric[:, :prefix] = metric[:, prefix : prefix + 1]  # the prefix would be everyone's best match
    for r in (1, 4, 99):
        group = match(metric[:, None], r, prefix)
        assert torch.equal(group[:, :prefix], torch.arange(prefix).expand(3, -1))
        assert (group[:, prefix:] >= prefix).all()
        slots = tokens - removable(tokens, prefix, r)
        for row in group:
            assert row.unique().tolist() == list(range(slots))


def test_scores_leave_any_prefix_alone() -> None:
    scores = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert prune(scores, 1, 2).tolist() == [[0, 1, -1, 2, 4, 3]]
    fused = reorganise(scores, 2, 2, fuse=True)
    assert fused.group.tolist() == [[0, 1, 4, 2, 4, 3]]
    torch.testing.assert_close(fused.weight, torch.tensor([[1, 1, 0.1, 1, 0.2, 1]]))
    assert reorganise(scores, 2, 2, fuse=False).group.tolist() == [[0, 1, -1, 2, -1, 3]]


def test_a_zero_key_is_similar_to_none() -> None:
    metric = torch.tensor([[[1.0, 0], [1, 0], [0, 0], [1, 0.1], [-1, 0], [-1, -1]]])
    assert match(metric[:, None], 1, 0).tolist() == [[2, 2, 1, 3, 0, 4]]


# --- work -----------------------------------------------------------------------------------------


def test_tome_counts_its_similarities() -> None:
    # 37 tokens: 19 x 18 x 16; then 34: 17 x 17 x 16.
    assert (
        run({"method": "tome", "r": [3, 1]}).method_macs.tolist()
        == [19 * 18 * 16 + 17 * 17 * 16] * 4
    )
    assert match_macs(37, 16) == 19 * 18 * 16


def test_ppt_counts_them_for_the_images_it_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    variances = []

    def watched(*args: Any) -> Tensor:
        score = significance(*args)
        variances.append(score.var(1))
        return score

    monkeypatch.setattr(ppt, "significance", watched)
    options = {"method": "ppt", "r": 4, "blocks": [1]}
    assert run({**options, "threshold": 0.0}).method_macs.tolist() == [0] * 4
    assert run({**options, "threshold": 1e9}).method_macs.tolist() == [19 * 18 * 16] * 4
    assert len(variances) == 2, "scores are computed once per block"
    mixed = run({**options, "threshold": float(variances[0].sort().values[1:3].mean())})
    pooled = mixed.method_macs > 0
    assert pooled.sum() == 2
    assert torch.equal(pooled, (mixed.source >= 0).all(1))


@pytest.mark.parametrize(
    ("method", "options", "reduction"),
    [
        ("tome", {"k": 12}, -38.66),
        ("tome", {"k": 11.75}, -38.47),
        ("tome", {"k": 13}, -41.7),
        ("ppt", {"k": 54}, -38.2),
        ("ppt", {"k": 55}, -38.7),
        ("evit", {"k": 0.655}, -38.5),
        ("evit", {"k": 0.66, "fuse": False}, -38.7),
    ],
)
def test_known_settings_reach_the_known_work(
    deit_tiny: Any, method: str, options: dict[str, Any], reduction: float
) -> None:
    """The model's own MACs of DeiT-Tiny, against a count made elsewhere."""
    geometry = geometry_of(deit_tiny)
    with asap_eval.reduce(deit_tiny, method, **options) as trace, torch.inference_mode():
        deit_tiny(tiny.images(1, 224))
    got = 100 * (model_macs(geometry, trace) / unpruned_macs(geometry) - 1)
    digits = len(f"{reduction}".split(".")[1])
    assert abs(float(got) - reduction) <= 0.51 * 10**-digits


@pytest.fixture(scope="module")
def deit_tiny() -> Any:
    return timm.create_model("deit_tiny_patch16_224").eval()


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "tome", "r": [1, 2, 3, 4, 5, 6]}, "6 entries; the model has 5"),
        ({"method": "tome", "r": [1, -2]}, "whole numbers"),
        ({"method": "tome", "r": [1.5]}, "whole numbers"),
        ({"method": "tome", "r": [3], "inflection": -1}, "leave inflection out"),
        ({"method": "tome", "r": (3, -1), "inflection": -1}, "tuple"),
        ({"method": "tome", "r": (3, -1, 2)}, "tuple"),
        ({"method": "tome", "r": -1}, ">= 0"),
        ({"method": "tome", "r": float("nan")}, "r=nan: give a number"),
        ({"method": "tome", "r": 3, "inflection": 1.5}, "-1 to 1"),
        ({"method": "ppt", "r": -1}, "0 or more"),
        ({"method": "ppt", "threshold": float("nan")}, "threshold=nan: give a number"),
        ({"method": "ppt", "blocks": [5]}, "0 to 4"),
        ({"method": "ppt", "blocks": [1, 1]}, "different"),
        ({"method": "evit", "k": 0.0}, "share"),
        ({"method": "evit", "k": 1.1}, "share"),
        ({"method": "evit", "blocks": ["1"]}, "0 to 4"),
    ],
)
def test_bad_options_say_what_is_allowed(options: dict[str, Any], said: str) -> None:
    with pytest.raises(AsapEvalError, match=said):
        run(options)


def test_a_budget_cannot_turn_a_schedule() -> None:
    batch = Batch(1, 37, 1, 5, True, (6, 6), 0, torch.device("cpu"), str)
    assert build("tome").knob_range(batch) == (0, 18)
    assert build("ppt").knob_range(batch) == (0, 18)
    with pytest.raises(AsapEvalError, match="leave r out"):
        build("tome", r=[1, 2]).knob_range(batch)
