"""LV-ViT against vectors made by its authors' code, and its output when tokens are reduced."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import golden_vit as g
import pytest
import tiny
import torch
from torch import Tensor

import asap_eval
from asap_eval.hosts import geometry_of, install
from asap_eval.method import Batch, Reducer, View
from asap_eval.models.lvvit import LVViT, lvvit_s
from asap_eval.tokens import Reduction
from asap_eval.work.macs import unpruned_macs

OURS = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "skip_lam")


def golden_model(golden: g.Golden) -> LVViT:
    config = golden.metadata["config"]
    model = LVViT(num_classes=config["num_classes"], **{key: config[key] for key in OURS})
    state = {k.removeprefix("sd."): v for k, v in golden.tensors.items() if k.startswith("sd.")}
    model.load_state_dict(state, strict=True)
    return model.eval().requires_grad_(False)


@g.files("lvvit", "lv_*")
def test_models(stem: str) -> None:
    golden = g.read("lvvit", stem)
    model, images = golden_model(golden), golden["images"]
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _a, out, name=name: seen.update({name: out}))
    with asap_eval.reduce(model, "none"):
        logits = model(images)
    g.close(logits, golden["logits"], g.LOGITS)
    g.close(model(images), golden["logits"], g.LOGITS)
    # Four convolutions in a row: processors round them in fp32 by more than a function's tolerance.
    g.close(seen["patch_embed"], golden["stem_out"], g.LOGITS)
    stem = copy.deepcopy(model.patch_embed).double()(images.double())
    g.close(stem.float(), golden["stem_out"])
    g.close(seen["norm"], golden["tokens_final_norm"], g.LOGITS)
    g.close(seen["head"], golden["cls_logits"], g.LOGITS)
    g.close(seen["aux_head"].amax(1), golden["aux_logits_max"], g.LOGITS)
    for number in range(len(model.blocks)):
        g.close(seen[f"blocks.{number}"][:1], golden[f"block{number}_img0"], g.LOGITS)


@pytest.mark.golden("golden/image/lvvit/lvvit_s_state_dict_keys.json")
def test_the_original_checkpoint_fits(shared: Path) -> None:
    listed = json.loads((shared / "golden/image/lvvit/lvvit_s_state_dict_keys.json").read_text())
    with torch.device("meta"):
        model = lvvit_s()
        state = {name: torch.empty(shape) for name, shape in listed.items()}
    model.load_state_dict(state, strict=True, assign=True)


def test_size_and_work_of_the_small_model() -> None:
    with torch.device("meta"):
        model = lvvit_s().eval()
    geometry = geometry_of(model)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(26.15e6, abs=5e3)
    assert unpruned_macs(geometry) == pytest.approx(6.55e9, abs=5e6)
    assert geometry.stem_macs == pytest.approx(1.35e9, abs=5e6)
    assert (geometry.depth, geometry.tokens, geometry.prefix) == (16, 197, 1)


def test_work_is_what_torch_counts() -> None:
    from flops import counting

    model = tiny.lv_vit(7)
    with counting() as counter:
        model(batch(1))
    assert counter.get_total_flops() == 2 * unpruned_macs(geometry_of(model))


def batch(count: int) -> Tensor:
    return tiny.images(count, seed=6)


@dataclasses.dataclass
class ByName(Reducer):
    """Keeps as many patches as the image's name says, after block 2."""

    site: Any = "after"
    name = "by_name"

    def begin(self, batch: Batch) -> Batch:
        return batch

    def watch(self, block: int, state: Batch) -> bool:
        return block == 2

    def decide(self, view: View, state: Batch) -> Reduction:
        keep = torch.tensor([int(state.id_of(i)) for i in view.images.tolist()])
        return Reduction.keep(torch.arange(view.size.shape[1]) <= keep[:, None])


@pytest.mark.parametrize("names", [["5", "36", "12", "1", "0"], ["9"] * 5, ["0"] * 5])
def test_only_patches_that_are_left_vote(names: list[str]) -> None:
    model, x = tiny.lv_vit(7), batch(5)
    with install(model, ByName()) as trace:
        trace.name_images(names)
        got = model(x)
        assert trace.lengths[-1].tolist() == [1 + int(name) for name in names]
    for i, name in enumerate(names):
        y = model.patch_embed(x[i : i + 1]).flatten(2).mT
        y = torch.cat([model.cls_token, y], 1) + model.pos_embed
        for number, block in enumerate(model.blocks, 1):
            y = block(y)
            if number == 2:
                y = y[:, : 1 + int(name)]
        y = model.norm(y)[0]
        expected = model.head(y[0])
        if name != "0":
            expected = expected + 0.5 * model.aux_head(y[1:]).max(0).values
        torch.testing.assert_close(got[i], expected, rtol=0, atol=2e-5)


def test_clean_after_exit() -> None:
    model, x = tiny.lv_vit(7), batch(2)
    for block in model.blocks:
        block.attn.fused_attn = False
    before, plain = [sorted(m.__dict__) for m in model.modules()], model(x)
    with asap_eval.reduce(model, "ats", k=20):
        assert not torch.equal(model(x), plain)
    assert [sorted(m.__dict__) for m in model.modules()] == before
    assert torch.equal(model(x), plain)
    assert not any(block.attn.fused_attn for block in model.blocks)
