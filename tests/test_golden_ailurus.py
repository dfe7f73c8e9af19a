"""The reading of AiluRus against its own specification's vectors (ours)."""

from __future__ import annotations

import golden_vit as g
import torch

from asap_eval.methods.ailurus_reading import assign, centres, distances, grid_ranks, spatial
from asap_eval.tokens import Reduction, Tokens


@g.files("ailurus", "spec_fn_*")
def test_density_peaks(stem: str) -> None:
    golden = g.read("ailurus", stem)
    meta, x = golden.metadata, golden["features"]
    plain = distances(x[None])
    rank = grid_ranks(tuple(meta["grid"]), x.device)
    weighted = spatial(plain, rank, meta["alpha"], meta["lambda"])
    g.close(weighted[0], golden["weighted_distance"].double())
    chosen, density, delta = centres(weighted, meta["m"], meta["k_neighbours"])
    g.close(density[0], golden["density"].double())
    g.close(delta[0], golden["delta"].double())
    assert torch.equal(chosen[0], golden["centres"])
    cluster = assign(plain, weighted, chosen)
    assert torch.equal(cluster[0], golden["assignment"])
    g.close(Tokens.start(x[None], 0).apply(Reduction(cluster)).x[0], golden["merged"])


@g.files("ailurus", "spec_model_*")
def test_models(stem: str) -> None:
    golden = g.read("ailurus", stem)
    setting = golden.metadata["setting"]
    options = {
        "m": setting["m"],
        "after": setting["after_block_from_1"],
        "alpha": setting["alpha"],
        "nearest": setting["lambda"],
        "neighbours": setting["k_neighbours"],
        "proportional": setting["proportional"],
    }
    got = g.run(golden.metadata["model"], "ailurus_reading", **options)
    g.compare(golden, got)
    assert torch.equal(got.trace.source, golden["assignment"] + 1)
    assert torch.equal(g.held(got), golden["size_after"])
