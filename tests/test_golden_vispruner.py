"""VisPruner against vectors made by its authors' code."""

from __future__ import annotations

from typing import Any

import golden_vlm as g
import pytest
import torch
from torch import Tensor

from asap_eval.methods import vispruner
from asap_eval.methods.vispruner import important_and_diverse


@g.files("vispruner", "fn_*", "vispruner/in_576x1024", "common/clip_64x48")
def test_functions(stem: str) -> None:
    """The wide input was searched to be robust: elsewhere rounding changes what is kept."""
    golden = g.read(f"vispruner/{stem}")
    given = g.read("vispruner/in_576x1024") if "576" in stem else g.inputs(stem)
    score = given["cls_attn"].mean(1)[:, 1:]
    important, diverse = important_and_diverse(
        score, given["hidden"][:, 1:], int(golden["T"]), float(golden["ratio"])
    )
    first = torch.zeros_like(important).scatter(1, golden["important_idx_patch"].long(), True)
    assert torch.equal(important, first)
    kept = important | diverse
    assert torch.equal(kept, golden["index_mask"])
    expected = golden["kept_idx_patch"].long()
    assert torch.equal(kept.nonzero()[:, 1].view_as(expected), expected.sort(dim=1).values)
    assert not (important & diverse).any()


@g.files("vispruner", "module_pixels15_*", "visionzip/module_pixels15_d54_c10", "host/llava/model")
def test_the_tower_s_output(stem: str) -> None:
    """From what the tower gave in the authors' run: the same image is in VisionZip's file.

    Where their mask is not the one of fp64, only the important half can be compared.
    """
    golden = g.read(f"vispruner/{stem}")
    tower = g.read("visionzip/module_pixels15_d54_c10")
    count = int(stem.split("_")[2][1:])
    features, score = tower["hidden_m2"][:, 1:], tower["cls_attn_layer22"].mean(1)[:, 1:]
    important, diverse = important_and_diverse(score, features, count, 0.5)
    mask = golden["index_mask"]
    assert not (important & ~mask).any()
    if golden["mask_fp32_equals_fp64"]:
        assert torch.equal(important | diverse, mask)
    assert (important | diverse).sum() == mask.sum() == count
    g.close(g.project(features[mask]), golden["image_embeds"])


@g.files("vispruner", "module_*", "host/*", "host/llava*/*")
def test_models(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their mask: this tower's output is within 1e-5 of theirs, which is far enough for
    another diverse half. The important half and the count are ours."""
    golden = g.read(f"vispruner/{stem}")
    mask, seen = golden["index_mask"], []

    def given(*args: Any) -> tuple[Tensor, Tensor]:
        important, diverse = important_and_diverse(*args)
        seen.append((important, diverse))
        return important, mask & ~important

    monkeypatch.setattr(vispruner, "important_and_diverse", given)
    images, _, count = stem.removeprefix("module_").removesuffix("_r0.5").rpartition("_T")
    g.compare(golden, g.answer(images, 8, "vispruner", k=int(count)))
    assert seen
    for important, diverse in seen:
        assert not (important & ~mask).any()
        assert torch.equal((important | diverse).sum(1), mask.sum(1))
