"""Steps of walks: the compiled kernel against float64, its bits, and torch's way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asap_eval.kernels import native, walk
from asap_eval.kernels.walk import walked

SHAPES = ((3, 198, 197), (1, 1, 1), (2, 5, 16), (5, 17, 17), (9, 66, 65), (1, 100, 99))
"""``b, M, N``: walks of DeiT and smaller, full and partial tiles and panels."""


pytestmark = pytest.mark.usefixtures("_as_kernels_run")


def walks(count: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Rows ``[b, M, N]`` of any sign, maps ``[b, N, N]`` whose rows sum to 1."""
    generator = torch.Generator().manual_seed(length)
    left = torch.randn(count, rows, length, generator=generator)
    return left, torch.randn(count, length, length, generator=generator).softmax(-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_against_float64(
    shape: tuple[int, int, int], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.SWITCH, kernel)
    rows, maps = walks(*shape)
    wanted = 0.4 * rows.double() @ maps.double() + 0.6 * rows.double()
    found = walked(rows, maps, 0.4, torch.float32)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("shape", SHAPES)
def test_each_walk_alone_has_the_same_bits(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread or three, whole or cut, in memory that held anything."""
    rows, maps = walks(*shape)
    torch.set_num_threads(1)
    whole = walked(rows.clone(), maps, 0.4, torch.float32)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **kw: empty(*a, **kw).fill_(torch.nan))
    torch.set_num_threads(3)
    for one in range(len(rows)):
        few = slice(one, one + 1)
        alone = walked(rows[few].clone(), maps[few], 0.4, torch.float32)
        assert torch.equal(alone, whole[few])


@pytest.mark.usefixtures("_compiled")
def test_the_kernel_runs_where_it_can_and_in_place() -> None:
    rows, maps = walks(2, 5, 4)
    before = rows.clone()
    assert walked(rows, maps, 0.4, torch.float32) is rows
    with torch.enable_grad():
        grown = walked(before, maps.clone(), 0.4, torch.float32)
    wide = before.double()
    doubled = walked(wide, maps.double(), 0.4, torch.float64)
    assert torch.equal(before, walks(2, 5, 4)[0]), "neither where autograd follows"
    assert torch.equal(wide, before.double()), "nor in fp64"
    torch.testing.assert_close(grown, rows, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grown.double(), doubled, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("_compiled")
def test_shapes_that_do_not_fit() -> None:
    rows, maps = walks(2, 5, 4)
    with pytest.raises(ValueError, match="cannot take a step"):
        walked(rows[:1], maps, 1.0, torch.float32)


def test_maps_with_room_are_widened_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "room", lambda columns, _: -(-columns // 8) * 8)
    allocated = torch.zeros(2, 24, 24)
    maps = allocated[:, :17, :17]
    maps[:] = torch.rand(2, 17, 17)
    found = walk.widened(maps)
    assert found.data_ptr() == allocated.data_ptr()
    assert torch.equal(found, allocated)
    assert torch.equal(walk.widened(maps.contiguous()), allocated)
