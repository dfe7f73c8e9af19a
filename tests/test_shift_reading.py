"""The reading of attention-shift-aware pruning, part by part, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from asap_eval.methods.shift_reading import keep_and_merge, salience_of, soft_attention


def logits(n: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(3, n, n, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("causal", [True, False])
def test_salience_is_a_mean_over_queries_brought_to_one(causal: bool) -> None:
    scores = logits()
    raw = [
        sum(float(scores[:, i, j].mean()) for i in range(j if causal else 0, 7))
        / (7 - (j if causal else 0))
        for j in range(7)
    ]
    expected = [(value - min(raw)) / (max(raw) - min(raw)) for value in raw]
    torch.testing.assert_close(salience_of(scores, causal), torch.tensor(expected))
    assert (salience_of(torch.ones(2, 4, 4), causal) == 1).all()


def test_salient_tokens_are_seen_by_earlier_ones() -> None:
    scores, salience = logits(), torch.linspace(0, 1, 7)
    expected = torch.zeros(7)
    for head in scores:
        for i in range(7):
            row = [float(head[i, j]) - (4 * (1 - j / 6) if j > i else 0) for j in range(7)]
            total = sum(math.exp(value) for value in row)
            expected += torch.tensor([math.exp(value) / total for value in row]) / 21
    torch.testing.assert_close(soft_attention(scores, salience, 4.0), expected)


def test_the_two_ends_of_the_penalty() -> None:
    scores, salience = logits(), torch.linspace(0, 0.9, 7)
    both = scores.softmax(-1).mean((0, 1))
    torch.testing.assert_close(soft_attention(scores, salience, 0.0), both)
    causal = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf).softmax(-1)
    torch.testing.assert_close(soft_attention(scores, salience, math.inf), causal.mean((0, 1)))


def test_similar_tokens_join_the_more_salient_and_the_slot_is_refilled() -> None:
    attention = torch.tensor([0.3, 0.1, 0.25, 0.2, 0.05, 0.1])
    salience = torch.tensor([0.2, 0.9, 0.6, 0.5, 0.1, 0.3])
    features = torch.eye(6)
    features[3] = features[0] + 0.1 * features[3]  # 0 and 3 are alike; 3 is the more salient
    slot, weight = keep_and_merge(attention, salience, features, 3, 0.9)
    # Kept are 0, 2 and 3; 0 joins 3; the free slot goes to 1, the most salient of the others.
    assert slot.tolist() == [2, 0, 1, 2, -1, -1]
    torch.testing.assert_close(weight[:4], torch.tensor([0.2 / 0.7, 1.0, 1.0, 0.5 / 0.7]))
    apart, ones = keep_and_merge(attention, salience, features, 3, 1.0)
    assert apart.tolist() == [0, -1, 1, 2, -1, -1]
    assert (ones == 1).all()
