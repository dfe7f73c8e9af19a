"""PiToMe against vectors made by its authors' code."""

from __future__ import annotations

import golden_vit as g
import torch

from asap_eval.methods.pitome import energy, merge, similarities
from asap_eval.tokens import Reduction, Tokens


@g.files("pitome", "fn_*")
def test_matching_and_merging(stem: str) -> None:
    golden = g.read("pitome", stem)
    meta, prefix = golden.metadata, int(golden.metadata["class_token"])
    cosine = similarities(golden["metric"][:, prefix:])
    found = energy(cosine, meta["margin"])
    g.close(found, golden["energy"])
    order = found.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(order, golden["energy_order"])
    slots = merge(cosine, order, meta["r"], pairs=not meta["bsm"])
    front = torch.arange(prefix).expand(len(slots), -1)
    reduction = Reduction(torch.cat([front, slots + prefix], 1))
    x, start = golden["x"], Tokens.start(golden["x"], prefix)
    unit = start.apply(reduction)
    sized = Tokens(x, golden["size_in"][..., 0], start.source, prefix).apply(reduction)
    held = (reduction.group[:, None] == torch.arange(unit.x.shape[1])[:, None]).float()
    assert torch.equal(held, golden["source"])
    for after, suffix in ((unit, "_unit"), (sized, "")):
        g.close(after.x, golden[f"merged_x{suffix}"])
        g.close(after.size, golden[f"merged_size{suffix}"][..., 0])


@g.files("pitome", "model_*")
def test_models(stem: str) -> None:
    golden = g.read("pitome", stem)
    options = {"k": golden.metadata["setting"]["ratio"]}
    got = g.run(golden.metadata["model"], "pitome", **options)
    g.compare(golden, got)
    assert torch.equal(got.trace.source, golden["source_final"].argmax(1)[:, got.prefix :])
    g.alone(golden, "pitome", options)
