"""Down-sampling at the input: the grid, the position embedding, the work, the map of patches."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from cases import batch
from flops import counting
from pictures import picture_folder
from torch import Tensor, nn

import asap_eval
from asap_eval.errors import AsapEvalError
from asap_eval.hosts import geometry_of
from asap_eval.method import build
from asap_eval.record import Budget, Job
from asap_eval.runner import run
from asap_eval.tokens import covering
from asap_eval.work.macs import model_macs, unpruned_macs

host = functools.cache(lambda name: tiny.HOSTS[name]())
on_every_host = pytest.mark.parametrize("name", tiny.HOSTS)


def small(images: Tensor) -> Tensor:
    """The images at 4 x 5 patches of 4 x 4 pixels."""
    return nn.functional.interpolate(images, (16, 20), mode="bicubic", antialias=True)


K = 20 / 36
"""The share whose nearest grid is 4 x 5 of 6 x 6."""


@pytest.mark.parametrize(
    ("own", "k", "grid"),
    [
        ((14, 14), 1.0, (14, 14)),
        ((14, 14), 0.95, (13, 14)),
        ((14, 14), 0.7, (11, 12)),  # 132 of 137.2 wanted; 12 x 12 is farther away
        ((14, 14), 0.5, (10, 10)),
        ((14, 14), 1e-9, (1, 1)),
        ((24, 24), 0.65, (19, 20)),
        ((16, 8), 0.5, (11, 6)),
        ((1, 9), 0.5, (1, 5)),
    ],
)
def test_the_nearest_grid(own: tuple[int, int], k: float, grid: tuple[int, int]) -> None:
    assert build("downsample", k=k).grid(own) == grid


@pytest.mark.parametrize(
    ("k", "said"),
    [
        *((k, r"give a value in \(0, 1\]") for k in (0.0, -0.1, 1.01)),
        (float("nan"), r"^downsample\.k=nan: give a number\.$"),
    ],
)
def test_a_share_out_of_range_is_refused(k: float, said: str) -> None:
    with (
        pytest.raises(AsapEvalError, match=said),
        asap_eval.reduce(host("plain"), "downsample", k=k),
    ):
        pass


@pytest.mark.usefixtures("torch_attention")
@on_every_host
def test_it_is_what_the_models_own_library_makes_of_a_small_image(name: str) -> None:
    """The same model, asked by its own switch for images of any size, given the small image."""
    model = tiny.HOSTS[name]()
    with asap_eval.reduce(host(name), "downsample", k=K) as trace:
        got = tiny.output(host(name), batch())
    x = small(batch())
    if name == "clip":
        with torch.no_grad():
            plain = model(x, interpolate_pos_encoding=True).pooler_output
    else:
        model.dynamic_img_size = True
        if name != "lv_vit":  # as timm's constructor does for dynamic_img_size=True
            embed = model.patch_embed
            dynamic = type(embed)(
                None, 4, embed_dim=32, strict_img_size=False, output_fmt="NHWC",
                bias=embed.proj.bias is not None,
            )  # fmt: skip
            dynamic.grid_size = embed.grid_size
            dynamic.load_state_dict(embed.state_dict())
            model.patch_embed = dynamic
        plain = tiny.output(model, x)
    assert torch.equal(got, plain)
    prefix = tiny.PREFIX.get(name, 1)
    assert (trace.lengths == 20 + prefix).all()
    assert (trace.fired == 1).all()


@on_every_host
def test_positions_of_a_grid_are_resampled_not_cut(name: str) -> None:
    """Without positions resampling would not matter: with them the output depends on it."""
    model = tiny.HOSTS[name]()
    with asap_eval.reduce(model, "downsample", k=K):
        before = tiny.output(model, batch())
    flip(model)
    with asap_eval.reduce(model, "downsample", k=K):
        assert (tiny.output(model, batch()) - before).abs().max() > 1e-3


@torch.no_grad()
def flip(model: Any) -> None:
    """Turn the grid of position embeddings upside down; those of prefix tokens stay."""
    embedding = getattr(model, "pos_embed", None)
    if embedding is None:
        tower = model if hasattr(model, "embeddings") else model.vision_model
        embedding = tower.embeddings.position_embedding.weight[None]
    embedding[:, -36:] = embedding[:, -36:].view(1, 6, 6, -1).flip(1).flatten(1, 2)


@on_every_host
def test_work_is_what_torch_counts(name: str) -> None:
    """The stem's part falls too."""
    geometry, one = geometry_of(host(name)), batch()[:1]
    with asap_eval.reduce(host(name), "downsample", k=K) as trace:
        with counting() as counter:
            tiny.output(host(name), one)
        assert trace.patches.tolist() == [20]
    assert float(model_macs(geometry, trace)) == counter.get_total_flops() / 2
    assert float(model_macs(geometry, trace)) < unpruned_macs(geometry)


@on_every_host
def test_each_patch_is_where_its_centre_is(name: str) -> None:
    prefix = tiny.PREFIX.get(name, 1)
    with asap_eval.reduce(host(name), "downsample", k=K) as trace:
        tiny.output(host(name), batch())
    for place, slot in enumerate(trace.source[0].tolist()):
        row, column = divmod(slot - prefix, 5)
        assert row / 4 <= (place // 6 + 0.5) / 6 < (row + 1) / 4
        assert column / 5 <= (place % 6 + 0.5) / 6 < (column + 1) / 5


def test_covering_the_same_grid_is_the_identity() -> None:
    assert torch.equal(covering((6, 7), (6, 7)), torch.arange(42))


def test_prefix_tokens_enter_as_they_are() -> None:
    """Class, distillation and register tokens and their own positions, before the first block."""
    for name in ("plain", "distilled", "registers", "registers_no_embed", "clip", "lv_vit"):
        model, prefix = host(name), tiny.PREFIX.get(name, 1)
        seen: list[Tensor] = []
        norm = model.encoder.layers[0].layer_norm1 if name == "clip" else model.blocks[0].norm1
        handle = norm.register_forward_pre_hook(lambda _m, args, to=seen: to.append(args[0]))
        for k in (1.0, K):
            with asap_eval.reduce(model, "downsample", k=k):
                tiny.output(model, batch())
        handle.remove()
        assert torch.equal(seen[0][:, :prefix], seen[1][:, :prefix])
        assert seen[1].shape[1] == 20 + prefix


def test_images_of_another_size_are_refused() -> None:
    with (
        asap_eval.reduce(host("plain"), "downsample", k=K),
        pytest.raises(AsapEvalError, match="28 x 28 pixels; the model was built for 24 x 24"),
    ):
        tiny.output(host("plain"), tiny.images(2, 28))


def test_half_precision_is_resized_in_single() -> None:
    model = tiny.vit(1).to(torch.bfloat16)
    x = batch().to(torch.bfloat16)
    seen: list[Tensor] = []
    model.patch_embed.proj.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with asap_eval.reduce(model, "downsample", k=K), torch.no_grad():
        model(x)
    assert torch.equal(seen[0], small(x.float()).to(torch.bfloat16))


def test_a_record_and_its_coarse_budget(tmp_path: Path) -> None:
    """10 x 10 patches: grids around a target are several points apart, and the record says so."""
    data, budget = picture_folder(tmp_path / "images"), Budget("macs", -30, samples=4)
    job = Job("test_vit", "downsample", str(data), weights="random", limit=8, budget=budget)
    record = run(job, results=tmp_path / "results").record
    calibration = record.provenance.calibration
    assert calibration is not None
    assert calibration.note is not None
    assert "too coarse" in calibration.note
    assert record.tokens is not None
    assert record.tokens.kept_min == record.tokens.kept_max == 72
    assert record.macs is not None
    assert record.macs.reduction_pct == pytest.approx(calibration.reached)
    assert record.fired is not None
    assert record.fired.histogram["1"] == 8
