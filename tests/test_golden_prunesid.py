"""PruneSID against vectors made by its authors' code."""

from __future__ import annotations

import golden_vlm as g
import torch
from torch import Tensor

from asap_eval.methods import prunesid


def chosen(place: Tensor) -> Tensor:
    """``[b, n]`` tokens handed on, the class token 0 first, from the places of the patches."""
    count = int(place[0].max()) + 1
    order = torch.where(place < 0, place.shape[1], place).argsort(dim=1)[:, :count]
    return torch.cat([torch.zeros_like(order[:, :1]), order + 1], 1)


@g.files("prunesid", "fn_*", "common/*")
def test_from_given_groups(stem: str) -> None:
    golden, given = g.read(f"prunesid/{stem}"), g.inputs(stem)
    budget, group = int(golden["need_token_num"]), golden["belong"].long()
    features, score = given["hidden"][:, 1:], given["cls_attn"].sum(1)[:, 1:]
    cosine, mean = prunesid.similarities(features)
    threshold = mean * (budget / 32)
    g.close(threshold.float(), golden["threshold"], 1e-6)
    if "V_abs" in golden:
        assert torch.equal(prunesid.groups_of(golden["V_abs"]), group)

    picked = prunesid.suppress(group, score, cosine, threshold)
    order = prunesid.ranking(group, score, picked)
    for image, kept in enumerate(golden["nms_keep"].long()):
        in_order = order[image][picked[image][order[image]]]
        expected = torch.cat([row[row >= 0] for row in kept])
        assert torch.equal(in_order, expected)

    place = prunesid.select(group, score, features, budget)
    tokens = chosen(place)
    assert torch.equal(tokens, golden["kept_idx_incl_cls"])
    if "features" in golden:
        got = given["hidden"].take_along_dim(tokens[..., None], 1)
        assert torch.equal(got, golden["features"])


@g.files("prunesid", "fn_*", "common/*")
def test_groups_by_exact_decomposition(stem: str) -> None:
    golden, given = g.read(f"prunesid/{stem}"), g.inputs(stem)
    budget = int(golden["need_token_num"])
    group = prunesid.groups_of(prunesid.loadings(given["hidden"][:, 1:], budget // 4))
    assert torch.equal(group, golden["belong_exact_svd"].long())
