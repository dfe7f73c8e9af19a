"""Reductions as data: copies are exact, means are weighted by size, maps and sizes follow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asap_eval.tokens import DROPPED, Reduction, Tokens, combine


def groups(*rows: list[int]) -> Reduction:
    return Reduction(torch.tensor(rows))


def tokens(batch: int, count: int, prefix: int = 1, width: int = 4) -> Tokens:
    g = torch.Generator().manual_seed(batch * 100 + count)
    return Tokens.start(torch.randn(batch, count, width, generator=g), prefix)


def random_groups(batch: int, count: int, slots: int, lost: float, g: torch.Generator) -> Tensor:
    """``[batch, count]``: token 0 keeps slot 0, every slot is hit, some tokens are dropped."""
    rows = []
    for _ in range(batch):
        row = torch.randint(1, slots, (count,), generator=g)
        row[torch.rand(count, generator=g) < lost] = DROPPED
        row[:slots] = torch.arange(slots)
        rows.append(row)
    return torch.stack(rows)


def test_keep_numbers_the_kept_in_order_and_pools_behind_them() -> None:
    mask = torch.tensor([[1, 0, 1, 0, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()
    pool = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    assert Reduction.keep(mask).group.tolist() == [
        [0, DROPPED, 1, DROPPED, 2],
        [0, 1, 2, 3, 4],
        [0, DROPPED, DROPPED, DROPPED, DROPPED],
    ]
    pooled = Reduction.keep(mask, pool)
    assert pooled.group.tolist() == [
        [0, 3, 1, DROPPED, 2],
        [0, 1, 2, 3, 4],
        [0, DROPPED, DROPPED, DROPPED, DROPPED],
    ]
    assert pooled.slots.tolist() == [4, 5, 1]


def test_identity_leaves_every_bit_and_keeps_padding_out() -> None:
    start = tokens(2, 6)
    same = start.apply(Reduction.identity(start.size))
    assert torch.equal(same.x, start.x)
    assert torch.equal(same.size, start.size)
    assert torch.equal(same.source, start.source)
    size = torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, 3.0]])
    assert Reduction.identity(size).group.tolist() == [[0, 1, DROPPED], [0, 1, 2]]


def test_survivors_are_exact_copies_beside_a_mean() -> None:
    start = tokens(1, 7)
    after = start.apply(groups([0, 2, 1, 3, 2, DROPPED, 2]))
    assert torch.equal(after.x[0, [0, 1, 3]], start.x[0, [0, 2, 3]])
    torch.testing.assert_close(after.x[0, 2], start.x[0, [1, 4, 6]].mean(0))
    assert after.size.tolist() == [[1, 1, 3, 1]]
    assert after.source.tolist() == [[2, 1, 3, 2, DROPPED, 2]]


def test_merging_in_two_steps_is_the_mean_over_patches() -> None:
    start = tokens(1, 5)
    after = start.apply(groups([0, 1, 1, 1, 2])).apply(groups([0, 1, 1]))
    torch.testing.assert_close(after.x[0, 1], start.x[0, 1:].mean(0))
    assert after.size.tolist() == [[1, 4]]
    assert after.source.tolist() == [[1, 1, 1, 1]]


def test_given_weights_are_factors_of_a_sum() -> None:
    start = tokens(1, 4)
    weight = torch.tensor([[1.0, 0.25, 0.5, 1.0]])
    after = start.apply(Reduction(torch.tensor([[0, 2, 2, 1]]), weight))
    assert torch.equal(after.x[0, :2], start.x[0, [0, 3]])
    torch.testing.assert_close(after.x[0, 2], 0.25 * start.x[0, 1] + 0.5 * start.x[0, 2])
    assert after.size.tolist() == [[1, 1, 2]]  # sizes count patches, whatever their weights
    alone = start.apply(Reduction(torch.tensor([[0, 1, 2, 3]]), weight))
    torch.testing.assert_close(alone.x[0, 1], 0.25 * start.x[0, 1])


def test_shorter_images_are_padded_with_size_zero() -> None:
    start = tokens(3, 5)
    after = start.apply(groups([0, 1, 2, 3, 4], [0, 1, DROPPED, DROPPED, 1], [0, 1, 2, 2, 2]))
    assert after.lengths.tolist() == [5, 2, 3]
    assert after.size.tolist() == [[1, 1, 1, 1, 1], [1, 2, 0, 0, 0], [1, 1, 3, 0, 0]]
    assert not after.x[1, 2:].any()
    assert not after.x[2, 3:].any()
    again = after.apply(Reduction.identity(after.size))
    assert torch.equal(again.x, after.x)
    assert again.lengths.tolist() == [5, 2, 3]


def test_images_do_not_mix() -> None:
    start = tokens(3, 8)
    g = torch.Generator().manual_seed(1)
    group = random_groups(3, 8, 4, 0.3, g)
    together = start.apply(Reduction(group))
    for i in range(3):
        alone = Tokens.start(start.x[i : i + 1], 1).apply(Reduction(group[i : i + 1]))
        length = int(alone.lengths)
        torch.testing.assert_close(together.x[i, :length], alone.x[0], rtol=0, atol=1e-6)
        assert torch.equal(together.source[i], alone.source[0])


@pytest.mark.parametrize("seed", range(3))
def test_source_and_size_follow_any_chain(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    batch, count, prefix = 4, 20, 2
    now = Tokens.start(torch.randn(batch, count, 3, generator=g), prefix)
    where = torch.arange(count).repeat(batch, 1)  # the same, followed token by token
    for slots, lost in ((12, 0.1), (7, 0.0), (4, 0.2)):
        group = random_groups(batch, now.x.shape[1], slots, lost, g)
        group[:, :prefix] = torch.arange(prefix)
        for b in range(batch):
            for t in range(count):
                where[b, t] = group[b, where[b, t]] if where[b, t] >= 0 else DROPPED
        now = now.apply(Reduction(group))
        assert torch.equal(now.source, where[:, prefix:])
        for b in range(batch):
            for slot in range(slots):
                assert now.size[b, slot] == (where[b] == slot).sum()


def test_merging_conserves_size_and_feature_mass_and_dropping_does_not() -> None:
    g = torch.Generator().manual_seed(3)
    start = tokens(2, 12)
    merged = start.apply(Reduction(random_groups(2, 12, 5, 0.0, g)))
    assert merged.size.sum(1).tolist() == [12, 12]
    weighed = (merged.x * merged.size[..., None]).sum(1)
    torch.testing.assert_close(weighed, start.x.sum(1))
    dropped = start.apply(groups([0, 1] + [DROPPED] * 10, [0] + [DROPPED] * 11))
    assert dropped.size.sum(1).tolist() == [2, 1]


def test_dropped_tokens_leave_no_trace() -> None:
    start = tokens(1, 5)
    start.x[0, 2] = torch.nan
    after = start.apply(groups([0, 1, DROPPED, 2, 2]))
    assert after.x.isfinite().all()


def test_combine_sums_low_precision_in_fp32() -> None:
    x = torch.full((512, 2), 1.0, dtype=torch.bfloat16)
    x[0] = 256.0  # in bfloat16 256 + 1 is 256 again
    out = combine(x, torch.zeros(512, dtype=torch.long), torch.ones(512), 1)
    assert out.dtype == torch.bfloat16
    assert out.tolist() == [[768.0, 768.0]]  # 767 to eight bits


def test_combine_copies_bits_and_zeroes_empty_rows() -> None:
    x = torch.tensor([[1e-30, 3.0], [0.1, -0.0], [7.0, 7.0]])
    out = combine(x, torch.tensor([3, 1, DROPPED]), torch.ones(3), 5)
    assert torch.equal(out[[3, 1]], x[:2])
    assert not out[[0, 2, 4]].any()
    nothing = combine(x, torch.full((3,), DROPPED), torch.ones(3), 2)
    assert torch.equal(nothing, torch.zeros(2, 2))


def test_the_start_has_every_patch_in_its_own_slot() -> None:
    start = tokens(2, 6, prefix=2)
    assert start.lengths.tolist() == [6, 6]
    assert start.source.tolist() == [[2, 3, 4, 5]] * 2
    assert start.size.unique().tolist() == [1]
