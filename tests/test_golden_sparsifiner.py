"""Sparsifiner against vectors made by its authors' code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import golden_vit as g
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor

import asap_eval
from asap_eval.methods import sparsifiner
from asap_eval.methods.parts.connectivity import MaskPredictor, largest, load_masks, strongest


@g.files("sparsifiner", "fn_*")
def test_a_predictor(stem: str) -> None:
    golden = g.read("sparsifiner", stem)
    meta, q, k = golden.metadata, golden["q"], golden["k"]
    start = "mask_predictor."
    mine = {n.removeprefix(start): v for n, v in golden.tensors.items() if n.startswith(start)}
    inner, width = mine["proj_c_q.weight"].shape
    predictor = MaskPredictor(*mine["proj_n"].shape[:1], width, inner, mine["proj_n"].shape[1])
    predictor.load_state_dict(mine, strict=True)
    active = torch.ones(len(q), q.shape[2], dtype=torch.bool)
    with torch.no_grad():
        found = predictor.coefficients(q, k, active, 1)
        g.close(found, golden["basis_coef_full"])
        top = meta["basis_coef_topk"]
        g.close(largest(found, top), golden["basis_coef"])
        guess = predictor(q, k, active, 1, top, meta["basis_threshold"])
    g.close(guess, golden["approx_attn"])
    assert torch.equal(strongest(guess, meta["budget"]), golden["attn_mask"][:, :, 1:])


@g.files("sparsifiner", "model_*")
def test_models(stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = g.read("sparsifiner", stem)
    setting = golden.metadata["setting"]
    predictors = {n: v.contiguous() for n, v in golden.tensors.items() if "mask_predictor" in n}
    save_file(predictors, tmp_path / "masks.safetensors")
    options = {
        "k": setting["attn_keep_rate"],
        "checkpoint": str(tmp_path / "masks.safetensors"),
        "top": setting["basis_coef_topk"],
        "least": setting["basis_threshold"],
    }
    places = setting["token_pruning_loc"]
    if places:
        options |= {"blocks": places, "keep": setting["token_keep_rate_list"][places[0]]}
    masks: list[Tensor] = []
    actives: list[Tensor] = []
    plain = sparsifiner.Sparsifiner._mask

    def watched(self: object, q: Tensor, k: Tensor, logits: Tensor, state: object) -> Tensor:
        actives.append(state.active)  # type: ignore[attr-defined]
        masks.append(plain(self, q, k, logits, state))  # type: ignore[arg-type]
        return masks[-1]

    monkeypatch.setattr(sparsifiner.Sparsifiner, "_mask", watched)
    vit = g.model(golden.metadata["model"])
    images = g.read("models", f"{golden.metadata['model']}_io")["images"]
    with asap_eval.reduce(vit, "sparsifiner", **options), torch.no_grad():
        features = vit.forward_features(images)
        logits = vit.forward_head(features)
    g.close(logits, golden["logits"], g.LOGITS)
    last = actives[-1]
    if places:
        last = torch.cat([last[:, :1], golden[f"token_mask_block{len(masks) - 1}"]], 1)
    active = last[:, 1:]
    g.close(features[:, 1:][active], golden["final_features_patches"][active], g.LOGITS)
    for block, mask in enumerate(masks):
        if f"attn_mask_block{block}_img0" in golden.tensors:
            rows = actives[block][0]
            expected = golden[f"attn_mask_block{block}_img0"][0]
            assert torch.equal(mask[0][:, rows], expected[:, rows])
        if f"token_mask_block{block}" in golden.tensors and block + 1 < len(masks):
            assert torch.equal(actives[block + 1][:, 1:], golden[f"token_mask_block{block}"])


@pytest.mark.golden("golden/image/sparsifiner/deit_small_state_dict_keys.json")
def test_the_authors_names(shared: Path) -> None:
    listed = json.loads(
        (shared / "golden/image/sparsifiner/deit_small_state_dict_keys.json").read_text()
    )
    theirs = {k: v for k, v in listed.items() if k.startswith("blocks.0.attn.mask_predictor.")}
    ours = {
        f"blocks.0.attn.mask_predictor.{name}": list(value.shape)
        for name, value in MaskPredictor(197, 64, 32, 32).state_dict().items()
    }
    assert {k: list(v) for k, v in theirs.items()} == ours


def test_the_specifications_work() -> None:
    """Predictors of DeiT-Small, 12 blocks, without their way back."""
    predictor = MaskPredictor(197, 64, 32, 32)
    back = 12 * 6 * 196 * 197 * 32
    assert round(12 * predictor.macs(6, 1) / 1e6 - back / 1e6, 1) == 87.1


@pytest.mark.parametrize("by", ["attention", "local", "predictors"])
def test_macs_are_kept_entries_and_predictors_less_the_dense_products(
    by: str, tmp_path: Path
) -> None:
    """A ViT of 5 blocks, 2 heads of width 16 and 37 tokens; each patch sees ceil(0.3 * 37) keys."""
    blocks, heads, width, tokens, patches, inner, rank = 5, 2, 16, 37, 36, 8, 6
    entries = heads * (tokens + patches * 12)
    expected = 2 * entries * width - 2 * tokens**2 * heads * width
    options: dict[str, Any] = {"k": 0.3, "by": by}
    if by == "predictors":
        seeded = torch.Generator().manual_seed(0)
        tensors = {
            f"blocks.{block}.attn.mask_predictor.{name}": torch.randn(value.shape, generator=seeded)
            for block in range(blocks)
            for name, value in MaskPredictor(tokens, width, inner, rank).state_dict().items()
        }
        save_file(tensors, tmp_path / "masks.safetensors")
        # With all coefficients and the whole basis no guess is 0: every row has its 12 keys.
        options |= {"checkpoint": str(tmp_path / "masks.safetensors"), "top": rank, "least": 0.0}
        expected += heads * 2 * tokens * width * inner  # queries and keys
        expected += heads * tokens * inner * rank  # the keys' summary
        expected += heads * patches * (inner * rank + rank * tokens)  # coefficients, way back
    model, images = tiny.HOSTS["plain"](), tiny.images(3)
    with asap_eval.reduce(model, "sparsifiner", **options) as trace:
        tiny.output(model, images)
    assert trace.method_macs.tolist() == [blocks * expected] * 3


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from asap_eval.errors import WeightsError

    save_file({"a": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match=r"blocks\.<i>"):
        load_masks(str(tmp_path / "none.safetensors"), "cpu")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_masks(str(tmp_path / "missing.safetensors"), "cpu")
