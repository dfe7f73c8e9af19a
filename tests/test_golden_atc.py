"""ATC against vectors made by its authors' code, clusters renumbered by their first members."""

from __future__ import annotations

import golden_vit as g
import pytest
import torch
from torch import Tensor

from asap_eval.methods.parts.clustering import Linkage, agglomerate
from asap_eval.methods.pitome import similarities
from asap_eval.tokens import Reduction, Tokens


@g.files("atc", "fn_*")
@pytest.mark.parametrize("linkage", ["single", "complete", "average"])
def test_clustering(stem: str, linkage: Linkage) -> None:
    golden = g.read("atc", stem)
    distance = 1 - similarities(golden["metric"][:, 1:])
    cluster = agglomerate(distance, golden.metadata["clusters"], linkage)
    group = torch.cat([torch.zeros_like(cluster[:, :1]), cluster + 1], 1)
    assert torch.equal(group, golden[f"labels_canonical_{linkage}"])
    x = golden["x"]
    start = Tokens(x, golden["size_in"][..., 0], Tokens.start(x, 1).source, 1)
    after = start.apply(Reduction(group))
    g.close(after.x, golden[f"merged_x_canonical_{linkage}"])
    g.close(after.size, golden[f"merged_size_canonical_{linkage}"].view(after.size.shape))


@g.files("atc", "model_*")
def test_models(stem: str) -> None:
    golden = g.read("atc", stem)
    setting, name = golden.metadata["setting"], golden.metadata["model"]
    shelf = setting.get("path") == "off-the-shelf"
    if shelf:  # as released, r removes r - 1
        options = {"r": float(setting["r"] - 1), "linkage": setting["linkage"]}
    else:
        options = {
            "k": setting["keep_rate"][0],
            "blocks": setting["locs"],
            "linkage": setting["linkage"],
            "proportional": setting["prop"],
        }
    got = g.run(name, "atc", **options)
    g.compare(golden, got)
    # At later places clusters of clusters: numbered by the first of the original tokens.
    slots = numbered(torch.cat([torch.zeros_like(got.trace.source[:, :1]), got.trace.source], 1))
    assert torch.equal(slots, golden["source_final_canonical"])
    order = torch.cat([torch.zeros_like(got.trace.source[:, :1]), got.trace.source], 1)
    last = torch.empty_like(got.blocks[-1])
    last.scatter_(
        1,
        slots[..., None].expand(-1, -1, last.shape[-1]),
        got.blocks[-1].take_along_dim(order[..., None], 1),
    )
    g.close(last, golden["tokens_after_last_block_canonical"], g.LOGITS)
    if not shelf:
        g.alone(golden, "atc", options)


def numbered(source: Tensor) -> Tensor:
    """Clusters ``[B, N]`` numbered by their first member."""
    first = [row.tolist() for row in source]
    return torch.tensor([[list(dict.fromkeys(row)).index(slot) for slot in row] for row in first])
