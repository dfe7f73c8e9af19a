"""The reading of ATM against its own specification's vectors (ours: no code is public)."""

from __future__ import annotations

import golden_vit as g
import pytest
import torch

from asap_eval.methods.atm_reading import AtmReading, alternate, by_size, merge


@g.files("atm", "spec_fn_*")
def test_merging_by_threshold(stem: str) -> None:
    golden = g.read("atm", stem)
    meta, size = golden.metadata, golden["size_in"][None]
    for half, name in ((alternate, "group_alternate"), (by_size, "group_by_size")):
        side = half(size, meta["prefix"])
        group = merge(golden["metric"][None], side, size, meta["prefix"], meta["theta"])
        assert torch.equal(group[0], golden[name])


@g.files("atm", "spec_model_*")
def test_models(stem: str) -> None:
    golden = g.read("atm", stem)
    setting = dict(golden.metadata["setting"])
    options = {"k": setting.pop("alpha"), **setting}
    reducer = AtmReading(**options)
    depth = golden["token_count"].shape[1]
    thetas = [reducer.threshold(block) for block in range(1, depth + 1)]
    assert thetas == pytest.approx(golden.metadata["thetas"], abs=1e-6)
    got = g.run(golden.metadata["model"], "atm_reading", **options)
    g.close(got.logits, golden["logits"], g.LOGITS)
    assert torch.equal(got.trace.lengths.T, golden["token_count"])
    assert torch.equal(got.trace.source, golden["source_final"][:, 1:])
    for index, tokens in enumerate(got.blocks):
        if f"block{index}_img0" in golden.tensors:
            expected = golden[f"block{index}_img0"]
            g.close(tokens[:1, : expected.shape[1]], expected, g.LOGITS)
