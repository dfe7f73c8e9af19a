"""Methods on what a tower hands on: what no vector of the authors' code says."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

import asap_eval
from asap_eval.errors import BadValueError
from asap_eval.methods.average_pool import cells
from asap_eval.methods.vispruner import important_and_diverse


def handed(method: str, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """A tiny tower's output before and after a method, both with the class token, and `source`."""
    model, x = tiny.clip(11), tiny.images(5, seed=2)
    with torch.no_grad():
        before = model(x).last_hidden_state
        with asap_eval.reduce(model, method, **options) as trace:
            after = model(x).last_hidden_state
    return before, after, trace.source


@pytest.mark.usefixtures("torch_attention")
@pytest.mark.parametrize(("k", "size"), [(4, 3), (9, 2)])
def test_average_pooling_is_torch_s(k: int, size: int) -> None:
    before, after, _ = handed("average_pool", k=k)
    patches = before[:, 1:].mT.unflatten(2, (6, 6))
    expected = F.avg_pool2d(patches, size).flatten(2).mT
    torch.testing.assert_close(after[:, 1:], expected, rtol=0, atol=1e-6)


def test_cells_are_as_square_as_they_can_be() -> None:
    grid = (24, 24)
    assert [cells(k, grid) for k in (1, 32, 64, 128, 192, 576)] == [
        (1, 1),
        (4, 8),
        (8, 8),
        (8, 16),
        (12, 16),
        (24, 24),
    ]
    for k in (0, 29, 577):
        with pytest.raises(BadValueError, match="no grid"):
            cells(k, grid)


@pytest.mark.usefixtures("torch_attention")
def test_no_visual_tokens_leaves_the_class_token_alone() -> None:
    before, after, source = handed("no_visual_tokens")
    assert torch.equal(after, before[:, :1])
    assert (source == -1).all()


def test_an_uneven_number_of_diverse_patches_is_allowed() -> None:
    g = torch.Generator().manual_seed(0)
    score, features = torch.rand(3, 37, generator=g), torch.randn(3, 37, 8, generator=g)
    for count, ratio in ((7, 0.5), (13, 0.3), (3, 1.0), (1, 0.0), (5, 0.9), (37, 0.5)):
        important, diverse = important_and_diverse(score, features, count, ratio)
        assert (important.sum(1) == int(count * ratio)).all()
        assert ((important | diverse).sum(1) == count).all()


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("visionzip", {"k": 1}, "2 to 37"),
        ("visionzip", {"k": 38}, "2 to 37"),
        ("visionzip", {"k": 8, "contextual": 8}, "0 to 7"),
        ("vispruner", {"k": 37}, "1 to 36"),
        ("vispruner", {"k": 8, "ratio": 1.5}, r"\[0, 1\]"),
        ("prunesid", {"k": 3}, "4 to 37"),
        ("average_pool", {"k": 35}, "6 x 6 patches"),
    ],
)
def test_what_does_not_fit_is_refused(method: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadValueError, match=said):
        handed(method, **options)
