"""PruneSID against vectors made by its authors' code."""

from __future__ import annotations

import golden_vlm as g
import pytest
import torch
from torch import Tensor

from asap_eval.methods import prunesid
from asap_eval.methods.prunesid import PruneSID


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


@g.files("prunesid", "module_*", "host/*", "host/llava*/*")
def test_models(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the groups of the authors' random decomposition, and with their packing."""
    golden = g.read(f"prunesid/{stem}")
    monkeypatch.setattr(prunesid, "groups_of", lambda _: golden["belong"].long())
    images, _, budget = stem.removeprefix("module_").rpartition("_n")
    g.compare(golden, g.answer(images, 8, "prunesid", k=int(budget), packing="authors"))


@g.files("prunesid", "module_next_*", "host/llava/model")
def test_packing_of_several_crops(stem: str) -> None:
    """Theirs is what their code does; corrected, every token stands where its patch is."""
    golden = g.read(f"prunesid/{stem}")
    kept, tower = golden["kept_idx_incl_cls"], golden["tower_out"]
    crops = g.crops(kept[:, 1:] - 1, tower.shape[1], stem)
    theirs = PruneSID(kept.shape[1], packing="authors").pack(crops)
    g.close(g.project(tower.flatten(0, 1))[theirs], golden["image_embeds"])

    corrected = PruneSID(kept.shape[1]).pack(crops)
    assert corrected is not None
    tile = (crops.crop > 0) & (crops.slot > 0)
    in_raster = crops.place[corrected[tile[corrected]]]
    assert (in_raster.diff() > 0).all()
    assert torch.equal(corrected.sort().values, torch.arange(len(corrected)))
    assert not torch.equal(corrected, theirs)
