"""Which of PyTorch's attention kernels runs on which GPU: asked with tensors that have no memory.

What a card allows is set by hand; which operators then run is what PyTorch's dispatcher sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

from asap_eval.hosts import gpu_attention
from asap_eval.hosts.attention import attend, attend_with_maps, kernel_of
from asap_eval.hosts.layout import Layout

FLASH, EFFICIENT = SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION
CUDNN, MATH = SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH
HOPPER = frozenset({FLASH, EFFICIENT, CUDNN})

OPERATORS = {
    "_scaled_dot_product_flash_attention": "flash",
    "_flash_attention_forward": "packed flash",
    "_scaled_dot_product_efficient_attention": "efficient",
    "_scaled_dot_product_cudnn_attention": "cudnn",
    "_cudnn_attention_forward": "packed cudnn",
    "bmm": "math",
    "baddbmm": "math",
}

DENSE, RAGGED = Layout((9, 9)), Layout((9, 5))


class Card(NamedTuple):
    """What a GPU and its user allow.

    Attributes:
        kernels: of fused attention. choice: PyTorch's for the unpruned model in 16 bits.
        capability: compute capability.
    """

    kernels: frozenset[SDPBackend]
    choice: SDPBackend
    capability: tuple[int, int] = (9, 0)


CARDS = {
    "hopper": Card(HOPPER, CUDNN),
    "ampere": Card(frozenset({FLASH, EFFICIENT}), FLASH, (8, 0)),
    "ampere without flash": Card(frozenset({EFFICIENT}), EFFICIENT, (8, 0)),
    "ampere, math alone": Card(frozenset(), MATH, (8, 0)),
    "turing": Card(frozenset({EFFICIENT}), EFFICIENT, (7, 5)),
    "turing in bf16": Card(frozenset(), MATH, (7, 5)),
}


class Seen(TorchDispatchMode):
    """Attention kernels that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = OPERATORS.get(func.overloadpacket.__name__)
        if name is not None:
            self.kernels.add(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    found: Card = CARDS[request.param]
    mean_map = pytest.importorskip("asap_eval.kernels.mean_map", reason="no Triton")
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_: found.choice.value)
    for kernel in (FLASH, EFFICIENT):
        name = f"can_use_{kernel.name.lower()}"
        monkeypatch.setattr(gpu_attention, name, lambda _, k=kernel: k in found.kernels)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: found.capability)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(mean_map, "mean_maps", lambda *_: None)
    gpu_attention.map_kernel.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield found
    gpu_attention.map_kernel.cache_clear()


def qkv(layout: Layout) -> list[Tensor]:
    made = torch.empty(layout.total, 3, 2, 16, device="cuda", dtype=torch.float16)
    return [layout.shaped(t).transpose(1, 2) for t in made.unbind(1)]


EXPECTED = {
    "hopper": ("cudnn", "packed flash"),
    "ampere": ("flash", "packed flash"),
    "ampere without flash": ("efficient", "efficient"),
    "ampere, math alone": ("math", "math"),
    "turing": ("math", "math"),
    "turing in bf16": ("math", "math"),
}
"""What computes attention with maps: of images of one length, and of several."""


@pytest.mark.parametrize(("card", "wanted"), EXPECTED.items(), ids=str, indirect=["card"])
def test_maps_come_from_what_the_card_has(card: Card, wanted: tuple[str, str]) -> None:
    for layout, kernel in zip((DENSE, RAGGED), wanted, strict=True):
        with Seen() as seen:
            out, maps = attend_with_maps(*qkv(layout), layout, None, [0, 1], heads=False)
        assert seen.kernels == {kernel}
        assert out.shape == qkv(layout)[0].shape
        assert maps.shape == (2, 9, 9)


@pytest.mark.parametrize(
    ("card", "plain", "biased"),
    [
        ("hopper", "packed flash", "efficient"),
        ("ampere", "packed flash", "efficient"),
        ("ampere without flash", "efficient", "efficient"),
        ("ampere, math alone", "math", "math"),
        ("turing", "efficient", "efficient"),
        ("turing in bf16", "math", "math"),
    ],
    indirect=["card"],
)
def test_packed_attention_is_what_the_card_has(card: Card, plain: str, biased: str) -> None:
    bias = torch.zeros(RAGGED.total, device="cuda")
    for added, wanted in ((None, plain), (bias, biased)):
        with Seen() as seen:
            assert attend(*qkv(RAGGED), RAGGED, added).shape == (1, 2, 14, 16)
        assert seen.kernels == {wanted}


@pytest.mark.parametrize("card", ["turing", "ampere"], indirect=True)
def test_a_record_says_what_makes_maps(card: Card) -> None:
    import triton

    said = kernel_of(torch.empty(1, device="cuda"))
    made = {
        (7, 5): "torch (Triton needs compute capability 8.0, this GPU has 7.5)",
        (8, 0): f"Triton {triton.__version__}",
    }
    assert said == f"torch; head-mean maps: {made[card.capability]}"
