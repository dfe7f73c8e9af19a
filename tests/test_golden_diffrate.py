"""DiffRate against vectors made by its authors' code, and its counts against their figures."""

from __future__ import annotations

import json
from pathlib import Path

import golden_vit as g
import pytest
import torch

from asap_eval.hosts.geometry import Geometry
from asap_eval.kernels.nearest import nearest
from asap_eval.methods.parts.learnt_counts import budget, limits, published
from asap_eval.tokens import Reduction, Tokens


@g.files("diffrate", "fn_*")
def test_merging(stem: str) -> None:
    golden = g.read("diffrate", stem)
    x, kept = golden["x"], golden.metadata["kept"]
    place = torch.arange(x.shape[1]).expand(len(x), -1)
    cosine, target = nearest(x[:, None], place[:, kept:], place[:, 1:kept])
    target = target + 1
    assert torch.equal(target, golden["dst_idx"])
    g.close(cosine, golden["node_max"])
    slots = torch.arange(kept).expand(len(x), -1)
    members = torch.ones(len(x), kept).scatter_add_(1, target, torch.ones_like(cosine))
    group = torch.cat([slots, target], 1)
    share = torch.cat([torch.ones(len(x), kept), cosine], 1)
    start = Tokens(x, golden["size_in"][..., 0], Tokens.start(x, 1).source, 1)
    after = start.apply(Reduction(group, 1 / members.gather(1, group), share=share))
    g.close(after.x, golden["x_merged"])
    g.close(after.size, golden["size_merged"][..., 0])


@g.files("diffrate", "model_*")
def test_models(stem: str) -> None:
    golden = g.read("diffrate", stem)
    setting, name = golden.metadata["setting"], golden.metadata["model"]
    options = {"prune": setting["prune"], "merge": setting["merge"]}
    got = g.run(name, "diffrate", **options)
    g.compare(golden, got, sizes=False)
    g.close(got.trace.maps[-1].size, golden["size_final"][..., 0])
    held = golden["source_final"][:, :, 1:]
    source = torch.where(held.sum(1) > 0, held.argmax(1), -1)
    assert torch.equal(got.trace.source, source)
    g.alone(golden, "diffrate", options)


@pytest.mark.golden("golden/image/diffrate/kept_tokens.json")
def test_the_counts_are_the_authors(shared: Path) -> None:
    theirs = json.loads((shared / "golden/image/diffrate/kept_tokens.json").read_text())
    names = ("T-DeiT", "S-DeiT", "B-DeiT", "B-MAE", "L-MAE", "H-MAE")
    for name, ours in zip(names, published().values(), strict=True):
        listed = theirs[f"ViT-{name}"]
        assert sorted(map(float, listed)) == list(ours.budgets)
        for at, row in listed.items():
            found = budget(ours, float(at), 1)
            assert list(found.prune) == row["prune_kept"]
            assert list(found.merge) == row["merge_kept"]


PRINTED = [
    ("deit_tiny", 0.6, 0.655), ("deit_tiny", 0.7, 0.726), ("deit_tiny", 0.8, 0.809),
    ("deit_tiny", 0.9, 0.902), ("deit_tiny", 1.0, 1.003), ("deit_small", 2.3, 2.327),
    ("deit_small", 2.5, 2.504), ("deit_small", 2.7, 2.709), ("deit_small", 2.9, 2.905),
    ("deit_small", 3.1, 3.108), ("deit_base", 8.7, 8.730), ("deit_base", 10.0, 9.985),
    ("deit_base", 10.4, 10.434), ("deit_base", 11.5, 11.517), ("deit_base", 12.5, 12.522),
    ("mae_base", 11.5, 11.517), ("mae_large", 42.3, 42.290), ("mae_huge", 103.4, 103.336),
]  # fmt: skip


@pytest.mark.parametrize(("name", "at", "gmacs"), PRINTED)
def test_macs_of_the_counts(name: str, at: float, gmacs: float) -> None:
    """In closed form, without the method's own; all digits that the authors print (2.905, 11.517,
    42.290; of MAE-H they print 103.337)."""
    of = published()[name]
    assert f"{work(name, at):.3f}" == f"{gmacs:.3f}"
    assert f"{geometry(name).whole_macs / 1e9:.3f}" == f"{of.unpruned:.3f}"


def geometry(name: str) -> Geometry:
    from asap_eval.hosts.geometry import BlockGeometry

    of = published()[name]
    d, side = of.width, round((of.tokens - 1) ** 0.5)
    block = BlockGeometry(4 * d**2, 2 * d, 8 * d**2)
    stem = 3 * (14 if side == 16 else 16) ** 2 * d
    return Geometry(name, (block,) * of.depth, d, 1, (side, side), True, stem, 1000 * d)


def work(name: str, at: float) -> float:
    """GMACs of the model with the counts of a budget."""
    counts, n = budget(published()[name], at, 1), published()[name].tokens
    seen, kept = [], []
    for prune, merge in zip(counts.prune, counts.merge, strict=True):
        seen.append(n)
        n = min(n, prune, merge)
        kept.append(n)
    return geometry(name).macs(published()[name].tokens - 1, seen, kept, n) / 1e9


@pytest.mark.parametrize("name", list(published()))
def test_counts_between_budgets(name: str) -> None:
    """Work grows with the budget, from one step below the least up to the whole."""
    low, high = limits(published()[name])
    steps = [low + (high - low) * i / 40 for i in range(41)]
    found = [work(name, at) for at in steps]
    assert found == sorted(found)
    assert budget(published()[name], high, 1).least == published()[name].tokens
    assert found[-1] == pytest.approx(high, rel=2e-3)
