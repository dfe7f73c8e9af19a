"""The formula of LaViT's less-attention layer, and what it costs in plain ViTs: our reading."""

from __future__ import annotations

import golden_vit as g
import pytest
import torch
from flops import counting

from asap_eval.methods.parts.less_attention import (
    less_attention,
    pays_below,
    saved_macs,
    spent_macs,
)


@g.files("lavit", "spec_fn_*")
def test_the_formula(stem: str) -> None:
    golden = g.read("lavit", stem)
    theta, psi = ((golden[f"{name}.weight"], golden[f"{name}.bias"]) for name in ("theta", "psi"))
    found = less_attention(golden["scores_before"], theta, psi)
    g.close(found, golden["scores_after"])
    g.close(found.softmax(-1) @ golden["v"], golden["out"])


@pytest.mark.parametrize(
    ("heads", "saved", "spent", "tokens"),
    [(3, 22.0, 45.9, 128), (6, 73.0, 91.7, 173), (12, 262.2, 183.5, 238)],
)
def test_it_saves_nothing_at_197_tokens(
    heads: int, saved: float, spent: float, tokens: int
) -> None:
    assert round(saved_macs(197, 64 * heads) / 1e6, 1) == saved
    assert round(spent_macs(197, heads) / 1e6, 1) == spent
    assert int(pays_below(heads)) == tokens
    edge = int(pays_below(heads))
    assert spent_macs(edge - 2, heads) < saved_macs(edge - 2, 64 * heads)
    assert spent_macs(edge + 2, heads) > saved_macs(edge + 2, 64 * heads)


def test_what_the_maps_spend_is_what_torch_counts() -> None:
    scores, weight = torch.randn(2, 3, 17, 17), (torch.randn(17, 17), torch.randn(17))
    with counting() as counter:
        less_attention(scores, weight, weight)
    assert counter.get_total_flops() / 2 == 2 * spent_macs(17, 3)
