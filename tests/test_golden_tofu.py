"""ToFu against vectors of a third party's code, and of our reading of the paper's formula."""

from __future__ import annotations

import golden_vit as g
import torch

from asap_eval.methods.parts.matching import match
from asap_eval.methods.tofu import fusing, targets
from asap_eval.tokens import DROPPED, Reduction, Tokens


@g.files("tofu", "fn_*")
def test_pruning_and_fusing(stem: str) -> None:
    golden = g.read("tofu", stem)
    x, r = golden["x"], golden.metadata["r"]
    group = match(golden["metric"][:, None], r, 1)
    target = targets(group)
    assert ((~target).sum(1) == r).all()
    start = Tokens.start(x, 1)
    g.close(start.apply(Reduction(torch.where(target, group, DROPPED))).x, golden["pruned_x"])
    g.close(start.apply(Reduction(group)).x, golden["mean_x"])
    weight = fusing(x, group, target, "baseline", r)
    g.close(start.apply(Reduction(group, weight)).x, golden["tofu_x"])


@g.files("tofu", "spec_mlerp_*")
def test_the_papers_formula(stem: str) -> None:
    golden = g.read("tofu", stem)
    x, r = golden["x"], golden.metadata["r"]
    group = match(golden["metric"][:, None], r, 1)
    weight = fusing(x, group, targets(group), "paper", r)
    g.close(Tokens.start(x, 1).apply(Reduction(group, weight)).x, golden["mlerp_x"])


@g.files("tofu", "model_*")
def test_models(stem: str) -> None:
    golden = g.read("tofu", stem)
    options = {"k": golden.metadata["setting"]["ratio"], "norm": "baseline"}
    g.compare(golden, g.run(golden.metadata["model"], "tofu", **options))
    g.alone(golden, "tofu", options)
