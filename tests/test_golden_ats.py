"""ATS against vectors made by its authors' code: functions, attention module, whole models."""

from __future__ import annotations

import golden_vit as g
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from asap_eval.methods import ats


def first_block(score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores ascending, their order and cumulative form where nothing has been dropped yet."""
    ordered, order = score.sort(1)
    whole = torch.ones(len(score), dtype=torch.bool)
    return ordered, order, ats.cumulative(ordered, torch.zeros_like(whole).long(), whole)


def kept(order: Tensor, picked: Tensor) -> Tensor:
    """Positions of one image's tokens that go on, the class token first."""
    return torch.cat([torch.zeros(1).long(), order[picked] + 1])


@g.files("ats", "fn_*")
def test_functions(stem: str) -> None:
    golden = g.read("ats", stem)
    count = golden.metadata["n_ref_tokens"] - 1
    score = ats.significance(golden["attn"][:, :, 0], golden["v"], 1)
    ordered, order, rising = first_block(score)
    g.close(ordered, golden["sorted_scores"])
    assert torch.equal(order, golden["sorted_indices"])
    g.close(rising.float(), golden["normalized_cdf"])
    g.close(ats.sampling_points(rising, count).float(), golden["ys"])

    picked = ats.sample(rising, count)
    assert torch.equal(picked.sum(1) + 1, golden["kept_count"].long())
    assert torch.equal(golden["policy"].sum((1, 2)), golden["kept_count"])
    for i in range(len(picked)):
        rows = kept(order[i], picked[i])
        assert torch.equal(golden["raw_x"][i, rows], golden["selected_x"][i, : len(rows)])
        if "selected_attn_rows" in golden.tensors:
            expected = golden["selected_attn_rows"][i, :, : len(rows)]
            assert torch.equal(golden["attn"][i, :, rows], expected)


@g.files("ats", "fn_*")
def test_rows_dropped_after_the_projection_are_the_authors(stem: str) -> None:
    golden = g.read("ats", stem)
    x, heads = golden["mod_x"], golden.metadata["num_heads"]
    qkv = linear(x, golden["attn.qkv.weight"], golden["attn.qkv.bias"])
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    attention = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    mixed = (attention @ v).transpose(1, 2).flatten(2)
    out = linear(mixed, golden["attn.proj.weight"], golden["attn.proj.bias"])

    _, order, rising = first_block(ats.significance(attention[:, :, 0], v, 1))
    picked = ats.sample(rising, golden.metadata["n_ref_tokens"] - 1)
    for mode in ("drop", "keepshape"):
        for i in range(len(picked)):
            rows = kept(order[i], picked[i])
            assert golden[f"mod_{mode}_policy"][i].sum() == len(rows)
            selected = golden[f"mod_{mode}_selected"][i, : len(rows)]
            assert torch.equal(golden["raw_x"][i, rows], selected)
            g.close(out[i, rows], golden[f"mod_{mode}_out"][i, : len(rows)])


@pytest.mark.parametrize("key", ["batch1", "keepshape"])
@g.files("ats", "model_*")
def test_models(stem: str, key: str) -> None:
    golden = g.read("ats", stem)
    setting = golden.metadata["setting"]
    # Their code at constant length pads a single image too.
    rule = "alone" if key == "batch1" and setting["drop"] else "padded"
    options = {"k": setting.get("K"), "blocks": setting["blocks"], "rule": rule}
    got = g.run(golden.metadata["model"], "ats", **options)
    assert torch.equal(got.trace.lengths.T, golden[f"token_count_{key}"].long())
    g.close(got.logits, golden[f"logits_{key}"], g.LOGITS)


@pytest.mark.parametrize("from_least", [True, False])
def test_padding_changes_nothing_and_is_never_sampled(from_least: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    score = torch.rand(1, 12, generator=generator).sort(1).values
    padded = torch.cat([torch.zeros(1, 5), score], 1)
    rule = torch.tensor([from_least])
    alone = ats.cumulative(score, torch.tensor([0]), rule)
    rising = ats.cumulative(padded, torch.tensor([5]), rule)
    assert torch.equal(rising[:, 5:], alone)
    for count in (2, 7, 12, 17, 40):
        picked = ats.sample(rising, count)
        assert not picked[:, :5].any()
        assert torch.equal(picked[:, 5:], ats.sample(alone, count))


def test_the_last_patch_stays() -> None:
    one = torch.ones(1, 1)
    assert ats.sample(first_block(one)[2], 9).all()
