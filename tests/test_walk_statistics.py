"""Figures of the walk against the float64 reference, plain loops and scipy."""

from __future__ import annotations

import asap_reference
import pytest
import tiny
import torch
from asap_reference import Options, run_block
from scipy.stats import spearmanr
from torch import Tensor

from asap_eval.bench.walk import random_walk as walk

PREFIX = 1
FP32 = 1e-4
"""Relative: sums over up to 65 fp32 entries after six products."""


@pytest.fixture(scope="module")
def maps() -> Tensor:
    """``[B, L, N, N]`` fp64 attention, mean over heads, of a tiny model on four images."""
    model = tiny.large(0).double()
    found = []
    with torch.no_grad():
        for image in tiny.images(4, 32):
            x = model.norm_pre(model._pos_embed(model.patch_embed(image[None].double())))[0]
            layers = []
            for block in model.blocks:
                x, heads = run_block(block, x)
                layers.append(heads.mean(0))
            found.append(torch.stack(layers))
    return torch.stack(found)


def chains(maps: Tensor, order: walk.Order, alpha: float) -> tuple[Tensor, Tensor]:
    """``[L, B, N, N]``: the walk by this package in fp32 and by the reference in fp64."""
    options = Options(order=order, alpha=alpha)
    count, depth, tokens = maps.shape[:3]
    ours, ours_now = [], walk.start(count, tokens)
    for block in range(depth):
        ours_now = walk.step(ours_now, maps[:, block].float(), alpha, order)
        ours.append(ours_now)
    theirs = []
    for image in maps:
        now = torch.eye(tokens, dtype=torch.float64)
        one = []
        for attention in image:
            now = asap_reference.step(now, attention, options)
            one.append(now)
        theirs.append(torch.stack(one))
    return torch.stack(ours), torch.stack(theirs, 1)


def near(ours: Tensor, theirs: Tensor, rel: float = FP32) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=rel, atol=1e-6)


@pytest.mark.parametrize("order", ["walk", "rollout"])
@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_the_walk_and_its_masses(maps: Tensor, order: walk.Order, alpha: float) -> None:
    ours, theirs = chains(maps, order, alpha)
    near(ours, theirs)
    for mine, ref in zip(ours, theirs, strict=True):
        mass = walk.column_mass(mine)
        near(mass, torch.stack([sum(c[i] for i in range(len(c))) for c in ref]))
        # Rows of C stay distributions, so the masses always share N between them.
        near(mass.sum(1), torch.full((len(mass),), float(maps.shape[2])))


def test_the_chain_among_patches_has_rows_that_sum_to_one(maps: Tensor) -> None:
    inner = walk.among_patches(maps[:, 2], PREFIX)
    assert inner.shape == (4, 64, 64)
    near(inner.sum(2), torch.ones(4, 64))
    near(inner[1, 5], maps[1, 2, 6, 1:] / maps[1, 2, 6, 1:].sum())


def test_distances_are_those_of_the_reference(maps: Tensor) -> None:
    ours, theirs = chains(maps, "walk", 0.5)
    sink = torch.tensor([3, 0, 63, 17])
    plain = walk.distances(ours[3], sink, PREFIX)
    weighted = walk.distances(ours[3], sink, PREFIX, weighted=True)
    for image, (c, s) in enumerate(zip(theirs[3], sink.tolist(), strict=True)):
        rows = c / (c.sum(0) / len(c)).sqrt()
        for found, of in ((plain, c), (weighted, rows)):
            near(found[image], torch.stack([(of[1 + i] - of[1 + s]).norm() for i in range(64)]))
        assert plain[image, s] == weighted[image, s] == 0


def test_a_column_nobody_reaches_adds_nothing_to_the_weighted_distance() -> None:
    chain = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]])
    found = walk.distances(chain, torch.tensor([0]), 1, weighted=True)
    mean = chain[0].mean(0)
    expected = ((chain[0, 2] - chain[0, 1])[:2].square() / mean[:2]).sum().sqrt()
    near(found[0], torch.stack([torch.tensor(0.0), expected]))


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_a_mass_changes_by_what_flows_in_less_what_flows_out(maps: Tensor, alpha: float) -> None:
    now = walk.start(len(maps), maps.shape[2]).double()
    column = torch.tensor([4, 0, 64, 30])
    signs = set()
    for block in range(maps.shape[1]):
        before = walk.column_mass(now)
        now = walk.step(now, maps[:, block], alpha, "walk")
        after = walk.column_mass(now)
        into, out = walk.flows(before, maps[:, block], column)
        change = walk.at(after - before, column)
        torch.testing.assert_close(change, alpha * (into - out), rtol=1e-9, atol=1e-12)
        for image, j in enumerate(column.tolist()):
            a, m = maps[image, block], before[image]
            others = [i for i in range(len(a)) if i != j]
            near(into[image], sum(m[i] * a[i, j] for i in others))
            near(out[image], sum(m[j] * a[j, i] for i in others))
        signs |= set(change.sign().tolist())
    assert signs == {-1.0, 1.0}, "the test has to see columns that grow and columns that shrink"


def test_ranks_share_ties_and_rho_is_scipys() -> None:
    g = torch.Generator().manual_seed(1)
    first = torch.randn(5, 40, generator=g)
    second = first + torch.randn(5, 40, generator=g)
    first[2] = first[2].round()  # many ties
    second[3] = -first[3]
    assert walk.ranks(torch.tensor([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[3.5, 1.0, 3.5, 2.0]]
    expected = [spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    assert walk.rank_correlation(first, second).tolist() == pytest.approx(expected, abs=1e-12)
    assert expected[3] == pytest.approx(-1)
    flat = walk.rank_correlation(torch.ones(1, 4), torch.arange(4.0)[None])
    assert bool(flat.isnan().all())


def test_a_column_of_each_row_is_left_out() -> None:
    values = torch.arange(8.0).view(2, 4)
    assert walk.without(values, torch.tensor([0, 2])).tolist() == [[1, 2, 3], [4, 5, 7]]


def test_spread_and_rank_are_those_of_the_singular_values(maps: Tensor) -> None:
    ours, theirs = chains(maps, "walk", 0.5)
    for block in (0, 2, 5):
        centred = theirs[block] - theirs[block].mean(1, keepdim=True)
        s = torch.linalg.svdvals(centred)
        near(walk.spread(ours[block]), s.square().sum(1).div(maps.shape[2]).sqrt())
        expected = s.square().sum(1).square() / s.pow(4).sum(1)
        near(walk.effective_rank(ours[block]), expected, rel=1e-3)
    eye = walk.start(1, 9)
    assert float(walk.spread(eye)) == pytest.approx((1 - 1 / 9) ** 0.5)
    assert float(walk.effective_rank(eye)) == pytest.approx(8)
    assert float(walk.effective_rank(torch.full((1, 4, 4), 0.25))) == 0


def test_the_ring_is_the_outermost_patches() -> None:
    assert walk.ring((3, 4)).view(3, 4).tolist() == [
        [True, True, True, True],
        [True, False, False, True],
        [True, True, True, True],
    ]
    assert int(walk.ring((14, 14)).sum()) == 52


def test_images_of_a_batch_do_not_see_each_other(maps: Tensor) -> None:
    ours, _ = chains(maps, "walk", 0.5)
    c, a = ours[3], maps[:, 4].float()
    sink = torch.tensor([3, 0, 63, 17])

    def figures(images: slice) -> list[Tensor]:
        chain, attention, where = c[images], a[images], sink[images]
        near_ = walk.distances(chain, where, PREFIX)
        far = walk.distances(chain, where, PREFIX, weighted=True)
        return [
            near_,
            far,
            walk.rank_correlation(walk.without(near_, where), walk.without(far, where)),
            walk.spread(chain),
            walk.effective_rank(chain),
            *walk.flows(walk.column_mass(chain), attention, where),
        ]

    together = figures(slice(None))
    alone = [figures(slice(i, i + 1)) for i in range(4)]
    for index, whole in enumerate(together):
        near(whole, torch.cat([one[index] for one in alone]), rel=1e-5)
