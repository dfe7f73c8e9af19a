"""Products of attention maps: the compiled kernel against float64, its bits, and torch's way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from asap_eval.kernels import available, native, products
from asap_eval.kernels.products import scaled_product

SHAPES = ((3, 198, 197), (1, 1, 1), (2, 5, 16), (5, 17, 17), (9, 66, 65), (1, 100, 99))
"""``b, M, N``: walks of DeiT and smaller, full and partial tiles and panels."""


@pytest.fixture(autouse=True)
def _without_gradients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(native.SWITCH, raising=False)
    threads = torch.get_num_threads()
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def _compiled() -> None:
    there, why = available()
    if not there:
        pytest.skip(why)


def factors(count: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Left ``[b, M, N]`` of any sign, right ``[b, N, N]`` with rows that sum to 1."""
    generator = torch.Generator().manual_seed(length)
    left = torch.randn(count, rows, length, generator=generator)
    return left, torch.randn(count, length, length, generator=generator).softmax(-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_against_float64(
    shape: tuple[int, int, int], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.SWITCH, kernel)
    left, right = factors(*shape)
    spare = torch.full_like(left, torch.nan)
    found = scaled_product(left, right, 0.4, spare, torch.float32)
    assert found is spare
    wanted = 0.4 * left.double() @ right.double()
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("shape", SHAPES)
def test_each_product_alone_has_the_same_bits(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread or three, whole or cut, in memory that held anything."""
    left, right = factors(*shape)
    torch.set_num_threads(1)
    whole = scaled_product(left, right, 0.4, torch.empty_like(left), torch.float32)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **kw: empty(*a, **kw).fill_(torch.nan))
    torch.set_num_threads(3)
    for one in range(len(left)):
        few = slice(one, one + 1)
        spare = torch.full_like(left[few], torch.nan)
        alone = scaled_product(left[few], right[few], 0.4, spare, torch.float32)
        assert torch.equal(alone, whole[few])


@pytest.mark.usefixtures("_compiled")
def test_the_kernel_runs_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    plain = products._natively
    monkeypatch.setattr(
        products, "_natively", lambda *args: (ran.append(len(args[0])), plain(*args))[1]
    )
    left, right = factors(2, 5, 4)
    scaled_product(left, right, 1.0, torch.empty_like(left), torch.float32)
    assert ran == [2]
    with torch.enable_grad():
        grown = scaled_product(left, right, 1.0, torch.empty_like(left), torch.float32)
    doubled = scaled_product(
        left.double(), right.double(), 1.0, torch.empty_like(left).double(), torch.float64
    )
    assert ran == [2], "neither where autograd follows nor in fp64"
    torch.testing.assert_close(grown.double(), doubled, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("_compiled")
def test_shapes_that_do_not_fit() -> None:
    left, right = factors(2, 5, 4)
    with pytest.raises(ValueError, match="is not"):
        scaled_product(left[:1], right, 1.0, torch.empty_like(left), torch.float32)


def test_maps_with_room_are_widened_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "room", lambda columns, _: -(-columns // 8) * 8)
    allocated = torch.zeros(2, 24, 24)
    maps = allocated[:, :17, :17]
    maps[:] = torch.rand(2, 17, 17)
    found = products.widened(maps)
    assert found.data_ptr() == allocated.data_ptr()
    assert torch.equal(found, allocated)
    assert torch.equal(products.widened(maps.contiguous()), allocated)
