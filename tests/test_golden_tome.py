"""ToMe against vectors made by its authors' code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import golden_vit as g
import pytest
import torch
from torch import Tensor

from asap_eval.methods.parts.matching import match, removable
from asap_eval.methods.tome import Tome
from asap_eval.tokens import Reduction, Tokens


def merged(x: Tensor, size: Tensor | None, group: Tensor) -> Tokens:
    """Tokens ``[B, N, D]`` with sizes ``[B, N, 1]`` (``None`` = 1) after a reduction."""
    start = Tokens.start(x, prefix=0)
    sizes = start.size if size is None else size[..., 0]
    return Tokens(x, sizes, start.source, 0).apply(Reduction(group))


def source(group: Tensor, slots: int) -> Tensor:
    """``[B, S, N]`` of 0 and 1: which tokens each slot holds."""
    return (group[:, None] == torch.arange(slots)[:, None]).float()


@g.files("tome", "fn_*")
def test_matching_and_merging(stem: str) -> None:
    golden = g.read("tome", stem)
    meta, x = golden.metadata, golden["x"]
    prefix = int(meta["class_token"]) + int(meta["distill_token"])
    assert removable(x.shape[1], prefix, meta["r"]) == meta["r_effective"]

    group = match(golden["metric"][:, None], meta["r"], prefix)
    unit, sized = merged(x, None, group), merged(x, golden["size_in"], group)
    slots = x.shape[1] - meta["r_effective"]
    assert torch.equal(source(group, slots), golden["source"])
    g.close(unit.x, golden["merged_x_unit"])
    assert torch.equal(unit.size, golden["merged_size_unit"][..., 0])
    g.close(sized.x, golden["merged_x_sized"])
    g.close(sized.size, golden["merged_size_sized"][..., 0])
    g.close(unit.x, golden["merged_mean"])
    back = group
    if meta["distill_token"]:
        # Their inverse takes A to come before B, though the distillation token, of B, is second.
        left = (x.shape[1] + 1) // 2 - meta["r_effective"]
        back = torch.tensor([0, left, *range(1, left), *range(left + 1, slots)])[group]
    g.close(unit.x.take_along_dim(back[..., None], 1), golden["unmerged"])

    again = match(golden["metric2"][:, None], meta["r2"], prefix)
    chained = merged(sized.x, sized.size[..., None], again)
    g.close(chained.x, golden["chained_x"])
    g.close(chained.size, golden["chained_size"][..., 0])
    both = again.gather(1, group)
    assert torch.equal(source(both, chained.x.shape[1]), golden["chained_source"])


@pytest.mark.golden("golden/image/tome/parse_r.json")
def test_schedules(shared: Path) -> None:
    for row in json.loads((shared / "golden/image/tome/parse_r.json").read_text()):
        given: Any = row["r"]
        ways = [Tome(given if isinstance(given, list) else 0)]
        if isinstance(given, dict):
            r, inflection = given["tuple"]
            ways = [Tome((r, inflection)), Tome(r, inflection=inflection)]
        elif isinstance(given, int):
            ways = [Tome(given), Tome(float(given))]
        for tome in ways:
            assert tome.schedule(row["num_layers"]) == row["schedule"], row


@g.files("tome", "model_*")
def test_models(stem: str) -> None:
    golden = g.read("tome", stem)
    setting = golden.metadata["setting"]
    r = setting["r"]
    options = {"r": r[0], "inflection": r[1]} if "dec" in stem else {"r": r}
    got = g.run(golden.metadata["model"], "tome", proportional=setting["prop"], **options)
    g.compare(golden, got)
    # The authors' matrix has the prefix too; a trace follows patches only.
    held = golden["source_final"]
    assert torch.equal(held.sum(1), torch.ones_like(held[:, 0]))
    assert torch.equal(got.trace.source, held.argmax(1)[:, got.prefix :])
    assert torch.equal(
        held.argmax(1)[:, : got.prefix], torch.arange(got.prefix).expand(len(held), -1)
    )
