"""Sparsifiner's mask predictors are fitted, written and run."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

import asap_eval
from asap_eval.errors import BadValueError
from asap_eval.method import build
from asap_eval.methods.parts.connectivity import load_masks
from asap_eval.methods.parts.predictors import TRAINED
from asap_eval.train.masks import Watcher, fit_masks, rebuilt, untrained, write_masks


def test_fitting_rebuilds_attention(tmp_path: Path) -> None:
    model = tiny.vit(1)
    images = tiny.images(8)
    plain, before = (
        tiny.output(model, images),
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    predictors, losses = fit_masks(model, [images] * 60, lr=1e-2)
    assert len(predictors) == 5
    assert losses[-1] < 0.8 * losses[0]  # of rank 6: most of a peaked map is out of its reach
    assert torch.equal(tiny.output(model, images), plain)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    again, _ = fit_masks(model, [images] * 2)
    other, _ = fit_masks(model, [images] * 2)
    for one, two in zip(again, other, strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)
        )

    file = tmp_path / "masks.safetensors"
    write_masks(file, predictors, {"model": "tiny"})
    for ours, loaded in zip(predictors, load_masks(str(file), "cpu"), strict=True):
        assert torch.equal(ours.proj_n, loaded.proj_n)
    method = build("sparsifiner", checkpoint=str(file), k=0.3, top=4, least=0.0)
    assert method.origin()["trained"] == TRAINED
    with asap_eval.reduce(model, "sparsifiner", checkpoint=str(file), k=0.3) as trace:
        got = tiny.output(model, images)
    assert got.isfinite().all()
    assert (got - plain).abs().max() > 1e-3
    assert (trace.lengths == 37).all()


def test_the_loss_is_the_squared_error_of_the_patches_rows() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 3, 9, 8, generator=g).unbind(0)
    predictor = untrained((9, 8, 4, 3), g)
    active = torch.ones(1, 9, dtype=torch.bool)
    guess = predictor.coefficients(q, k, active, 1) @ predictor.proj_back_n.mT
    maps = torch.cat([torch.zeros(1, 3, 1, 9), guess + 0.5], 2)
    assert rebuilt(predictor, q, k, maps, 1).item() == pytest.approx(0.01 * 0.25 * guess.numel())


def test_no_images_are_refused() -> None:
    with pytest.raises(BadValueError, match="no batch"):
        fit_masks(tiny.vit(1), [])


def test_a_model_without_predictors_of_its_size_is_refused(tmp_path: Path) -> None:
    predictors, _ = fit_masks(tiny.vit(1), [tiny.images(2)])
    write_masks(tmp_path / "masks.safetensors", predictors, {})
    model, checkpoint = tiny.large(), str(tmp_path / "masks.safetensors")
    with (
        pytest.raises(BadValueError, match="6 blocks and 65 tokens"),
        asap_eval.reduce(model, "sparsifiner", checkpoint=checkpoint),
    ):
        tiny.output(model, tiny.images(1, 32))
    with (
        pytest.raises(BadValueError, match=r"method\.by=attention"),
        asap_eval.reduce(model, "sparsifiner"),
    ):
        tiny.output(model, tiny.images(1, 32))
    assert Watcher().seen == []
