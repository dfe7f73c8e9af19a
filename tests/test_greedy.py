"""Choosing one after another: what the methods that do it share, and what each goes by."""

from __future__ import annotations

import pytest
import torch

from asap_eval.errors import BadValueError
from asap_eval.method import build
from asap_eval.methods.divprune import DivPrune, farthest
from asap_eval.methods.parts.greedy import chosen_mask, cosines, one_by_one
from asap_eval.methods.scope import covering


def test_ties_go_to_the_lower_number_and_none_is_taken_twice() -> None:
    flat = torch.zeros(2, 5)
    assert one_by_one(flat, lambda _: flat, 5).tolist() == [[0, 1, 2, 3, 4]] * 2
    high = torch.tensor([[0.0, 9.0, 1.0]])
    assert one_by_one(high, lambda _: high, 3).tolist() == [[1, 2, 0]]
    assert one_by_one(high, lambda _: high, 0).shape == (1, 0)


def test_duplicates_are_taken_last() -> None:
    """Among equal tokens only the first can be far from those taken."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 6, generator=g)
    x[[3, 7, 9]] = x[3].clone()
    order = farthest(cosines(x)[None], 12)[0].tolist()
    assert sorted(order) == list(range(12))
    assert order[:10].count(7) + order[:10].count(9) == 0


def test_farthest_by_hand() -> None:
    """0 and 1 are near each other; 3 is farthest from its nearest neighbour."""
    angle = torch.tensor([0.0, 0.1, 1.0, 2.2])
    x = torch.stack([angle.cos(), angle.sin()], 1)
    assert farthest(cosines(x)[None], 4)[0].tolist() == [3, 0, 2, 1]


def test_covering_by_hand() -> None:
    """Without weights the first patch resembles most of the others; what is opposite counts 0."""
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
    ones = torch.ones(1, 4, dtype=torch.double)
    assert covering(cosines(x)[None], ones, 2)[0].tolist() == [1, 3]
    heavy = torch.tensor([[0.1, 0.1, 9.0, 0.1]], dtype=torch.double)
    assert covering(cosines(x)[None], heavy, 1)[0].tolist() == [2]


def test_the_mask_of_an_order() -> None:
    assert chosen_mask(torch.tensor([[2, 0]]), 4).tolist() == [[True, False, True, False]]


def test_divprune_s_counts() -> None:
    assert [DivPrune(r=r).kept(576) for r in (0.098, 0.111, 0.222, 0.333)] == [56, 64, 128, 192]
    assert DivPrune().kept(576) == 56
    assert DivPrune(k=64).kept(576) == 64
    assert DivPrune(k=64).kept(10) == 10
    assert DivPrune(r=0.001).kept(10) == 1


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("divprune", {"k": 4, "r": 0.5}, "drop r"),
        ("divprune", {"k": 0}, "at least one"),
        ("divprune", {"r": 1.5}, r"\(0, 1\]"),
        ("dart", {"k": 4, "r": 0.5}, "drop r"),
        ("dart", {"k": 0}, "at least one"),
        ("dart", {"r": 1.0}, r"\[0, 1\)"),
        ("dart", {"layer": 18}, "1 to 17"),
        ("dart", {"pivot_image": 0}, "at least one pivot"),
        ("pyramiddrop", {"ratio": 0.0}, r"ratio in \(0, 1\]"),
        ("pyramiddrop", {"ratios": [0.2, 0.5], "layers": [1, 2]}, "none above"),
        ("pyramiddrop", {"ratios": [0.5]}, "one share"),
        ("pyramiddrop", {"layers": [18]}, "18"),
        ("scope", {"k": 0}, "1 to 36"),
        ("scope", {"k": 37}, "1 to 36"),
        ("scope", {"k": 4, "alpha": -1.0}, ">= 0"),
    ],
)
def test_what_does_not_fit_is_refused(method: str, options: dict[str, object], said: str) -> None:
    batch = type("Given", (), {"patches": 36, "depth": 18})()
    with pytest.raises(BadValueError, match=said):
        build(method, **options).check(batch)
