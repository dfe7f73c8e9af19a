"""FasterVLM, which is VisPruner without its diverse half, against its authors' code."""

from __future__ import annotations

import golden_vlm as g
import torch


@g.files("fastervlm", "module_*", "host/*", "host/llava*/*")
def test_models(stem: str) -> None:
    golden = g.read(f"fastervlm/{stem}")
    images, _, count = stem.removeprefix("module_").rpartition("_T")
    got = g.answer(images, 8, "vispruner", k=int(count), ratio=1.0)
    assert torch.equal(got.trace.source >= 0, golden["index_mask"])
    g.compare(golden, got)
