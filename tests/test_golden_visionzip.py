"""VisionZip against vectors made by its authors' code."""

from __future__ import annotations

import golden_vlm as g
import torch

from asap_eval.methods.visionzip import VisionZip, compress
from asap_eval.tokens import Tokens


@g.files("visionzip", "fn_*", "common/*")
def test_functions(stem: str) -> None:
    golden, given = g.read(f"visionzip/{stem}"), g.inputs(stem)
    dominant, contextual = int(golden["dominant"]), int(golden["contextual"])
    keys = given["key_mean"][:, None]
    reduction = compress(given["cls_attn"], keys, dominant, contextual, prefix=1)

    of_dominant = golden["kept_idx_incl_cls"].sort(dim=1).values
    kept = (reduction.group >= 0) & (reduction.group < dominant)
    assert torch.equal(kept.nonzero()[:, 1].view_as(of_dominant), of_dominant)
    cluster = torch.where(kept, -1, reduction.group - dominant)
    assert torch.equal(cluster, golden["assign"].long())
    target = golden["contextual_target_idx"].long()
    slots = dominant + torch.arange(contextual).expand_as(target)
    assert torch.equal(reduction.group.gather(1, target), slots)

    after = Tokens.start(given["hidden"], prefix=1).apply(reduction)
    expected = golden["features"]
    g.close(after.x[..., : expected.shape[2]], expected)
    assert (after.source >= 0).all()  # nothing is lost


@g.files("visionzip", "module_pixels15_d54_c10")
def test_the_tower_s_output(stem: str) -> None:
    """From what the tower's layer 22 gave in the authors' run."""
    golden = g.read(f"visionzip/{stem}")
    keys = golden["key_mean_layer22"][:, None]
    reduction = compress(golden["cls_attn_layer22"], keys, 54, 10, prefix=1)
    after = Tokens.start(golden["hidden_m2"], prefix=1).apply(reduction)
    g.close(after.x, golden["tower_out"])


@g.files("visionzip", "module_*", "host/*", "host/llava*/*")
def test_models(stem: str) -> None:
    golden = g.read(f"visionzip/{stem}")
    dominant, contextual = (int(part[1:]) for part in stem.split("_")[-2:])
    images = stem.removeprefix("module_").rpartition("_d")[0]
    g.compare(golden, g.answer(images, 8, "visionzip", k=dominant + contextual))


@g.files("visionzip", "module_next_*", "host/llava/model")
def test_packing_of_several_crops(stem: str) -> None:
    golden = g.read(f"visionzip/{stem}")
    dominant, contextual = (int(part[1:]) for part in stem.split("_")[3:])
    patches = golden["kept_idx_incl_cls"].sort(dim=1).values[:, 1:] - 1
    tower = golden["tower_out"]
    crops = g.crops(patches, tower.shape[1], stem)
    order = VisionZip(dominant + contextual).pack(crops)
    assert order is not None
    g.close(g.project(tower.flatten(0, 1))[order], golden["image_embeds"])
