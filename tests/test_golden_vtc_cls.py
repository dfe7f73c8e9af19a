"""VTC-CLS against vectors made by its authors' code."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.vtc_cls import most_attended, summed


@g.files("vtc_cls", "fn_*")
def test_functions(stem: str) -> None:
    golden = g.read(f"vtc_cls/{stem}")
    first = int(golden["start_layer"]) - int(golden["first_layer"])
    rows = golden["cls_rows"][first:, None, :, 1:]
    g.close(summed(rows)[0], golden["score"], 1e-5)
    kept = most_attended(rows, int(golden["token_num"]))[0]
    assert torch.equal(kept.nonzero().flatten(), golden["kept_idx_patch"].long())


@g.files("vtc_cls", "module_*", "host/*", "host/llava/*")
def test_models(stem: str) -> None:
    golden = g.read(f"vtc_cls/{stem}")
    options = {"k": int(golden["token_num"]), "start": int(golden["start_layer"])}
    got = g.answer("pixels15", 8, "vtc_cls", **options)
    g.compare(golden, got)
    kept = (got.trace.source[0] >= 0).nonzero().flatten()
    assert torch.equal(kept, golden["kept_idx_patch"].long())
