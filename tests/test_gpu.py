"""What only a GPU can show: its attention, its maps, and that nothing waits for it."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import tiny
import torch
from cases import CASES, Case, batch, run
from pictures import picture_folder
from torch import Tensor, nn

from asap_eval.bench.imagenet import ImageNet
from asap_eval.data.transforms import Scaling
from asap_eval.hosts import install
from asap_eval.hosts.attention import attend, attend_with_maps
from asap_eval.hosts.layout import Layout
from asap_eval.method import build
from asap_eval.models import load_model
from asap_eval.transfer import Arriving

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DEVICE = torch.device("cuda")
ATOL = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
VISION = [case for case in CASES if case.build().tower == "vision"]

host = functools.cache(lambda name: tiny.HOSTS[name]())


@functools.cache
def on_gpu(name: str) -> nn.Module:
    return tiny.HOSTS[name]().to(DEVICE)


def qkv(layout: Layout, heads: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values as a model's fused projection leaves them."""
    generator = torch.Generator().manual_seed(layout.total)
    made = torch.randn(layout.total, 3, heads, width, generator=generator).to(DEVICE, dtype)
    return [layout.shaped(t).transpose(1, 2) for t in made.unbind(1)]


def reference(q: Tensor, k: Tensor, v: Tensor, layout: Layout, bias: Tensor | None):
    """fp64: outputs ``[T, H, d]`` and, image by image, mean maps ``[n, n]``."""
    q, k, v = (t.transpose(1, 2).flatten(0, 1).double() for t in (q, k, v))
    outs = torch.empty_like(q)
    maps = []
    for start, length in zip(layout.starts, layout.lengths, strict=True):
        own = slice(start, start + length)
        logits = torch.einsum("nhd,mhd->hnm", q[own], k[own]) * q.shape[-1] ** -0.5
        if bias is not None:
            logits = logits + bias[own].double()
        found = logits.softmax(-1)
        outs[own] = torch.einsum("hnm,mhd->nhd", found, v[own])
        maps.append(found.mean(0))
    return outs, maps


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize(
    "lengths", [(37, 37, 37), (197, 12, 130), (1, 577)], ids=["dense", "ragged", "long"]
)
@pytest.mark.parametrize("width", [64, 32, 80])
@pytest.mark.parametrize("dtype", ATOL, ids=str)
def test_attention_and_maps(
    dtype: torch.dtype, width: int, lengths: tuple[int, ...], biased: bool
) -> None:
    layout = Layout(lengths)
    q, k, v = qkv(layout, 3, width, dtype)
    bias = (torch.arange(layout.total, device=DEVICE) % 5 + 1).log() if biased else None
    wanted, maps = reference(q, k, v, layout, bias)
    watched = [0, len(lengths) - 1]
    out = attend(q, k, v, layout, bias)
    also, found = attend_with_maps(q, k, v, layout, bias, watched, heads=False)
    for result in (out, also):
        flat = result.transpose(1, 2).flatten(0, 1).double()
        torch.testing.assert_close(flat, wanted, rtol=0, atol=ATOL[dtype])
    longest = max(lengths[i] for i in watched)
    assert found.shape == (2, longest, longest)
    for place, image in enumerate(watched):
        n = lengths[image]
        torch.testing.assert_close(
            found[place, :n, :n].double(), maps[image], rtol=0, atol=ATOL[dtype] / 4
        )
        assert not found[place, n:].any()
        assert not found[place, :, n:].any()


@pytest.mark.parametrize("name", ["plain", "distilled", "registers"])
@pytest.mark.parametrize("case", [c for c in VISION if c.effect == "tokens"], ids=str)
def test_a_gpu_reduces_as_a_cpu_does(name: str, case: Case) -> None:
    got, trace = run(on_gpu(name), case, batch().to(DEVICE))
    wanted, other = run(host(name), case, batch())
    assert torch.equal(trace.lengths.cpu(), other.lengths)
    assert torch.equal(trace.fired.cpu(), other.fired)
    assert torch.equal(trace.source.cpu(), other.source)
    torch.testing.assert_close(got.cpu(), wanted, rtol=0, atol=2e-4)


@pytest.mark.parametrize("case", [c for c in VISION if c.effect == "tokens"], ids=str)
def test_a_batch_equals_its_images(case: Case) -> None:
    x = batch().to(DEVICE)
    got, trace = run(on_gpu("plain"), case, x)
    for i in range(len(x)):
        alone, own = run(on_gpu("plain"), case, x[i : i + 1])
        assert torch.equal(own.lengths[:, 0], trace.lengths[:, i])
        torch.testing.assert_close(alone[0], got[i], rtol=0, atol=1e-4)


@pytest.fixture
def second() -> torch.device:
    """A GPU that is not the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    assert torch.cuda.current_device() == 0
    return torch.device("cuda:1")


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("dtype", ATOL, ids=str)
def test_maps_on_a_gpu_that_is_not_current(
    second: torch.device, dtype: torch.dtype, biased: bool
) -> None:
    layout = Layout((197, 12, 130))
    given = qkv(layout, 3, 64, dtype)
    bias = (torch.arange(layout.total, device=DEVICE) % 5 + 1).log() if biased else None
    wanted, maps = attend_with_maps(*given, layout, bias, [0, 2], heads=False)
    bias = None if bias is None else bias.to(second)
    there = [t.to(second) for t in given]
    got, found = attend_with_maps(*there, Layout(layout.lengths), bias, [0, 2], heads=False)
    torch.testing.assert_close(got.to(DEVICE), wanted, rtol=0, atol=ATOL[dtype])
    torch.testing.assert_close(found.to(DEVICE), maps, rtol=0, atol=ATOL[dtype] / 4)


@pytest.mark.parametrize("case", [c for c in VISION if c.effect == "tokens"], ids=str)
def test_a_method_on_a_gpu_that_is_not_current(second: torch.device, case: Case) -> None:
    wanted, other = run(on_gpu("plain"), case, batch().to(DEVICE))
    got, trace = run(tiny.HOSTS["plain"]().to(second), case, batch().to(second))
    assert torch.equal(trace.lengths.cpu(), other.lengths.cpu())
    torch.testing.assert_close(got.cpu(), wanted.cpu(), rtol=0, atol=2e-4)


def test_counts_arrive_from_a_gpu_that_is_not_current(second: torch.device) -> None:
    busy = torch.ones(4096, 4096, device=second)
    for _ in range(50):
        busy = (busy @ busy).clamp(max=1)
    assert Arriving(busy[0, :3].long()).list() == [1, 1, 1]


def test_nothing_waits_for_a_walk_that_never_fires() -> None:
    model, x = on_gpu("plain"), batch().to(DEVICE)
    names = [str(i) for i in range(len(x))]
    with torch.inference_mode(), install(model, build("asap", tau=float("inf"))) as trace:
        for mode in ("default", "error"):  # the first pass builds kernels
            trace.name_images(names)
            torch.cuda.set_sync_debug_mode(mode)
            try:
                model(x)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert not trace.fired.any()


def test_numbers_of_bytes_have_the_cpus_bits() -> None:
    scaling = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    assert torch.equal(scaling(images.to(DEVICE)).cpu(), scaling(images))


@pytest.mark.parametrize("workers", [0, 2])
def test_late_rows_are_the_same_rows(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(picture_folder(tmp_path / "data", each=4))
    loaded, bench = load_model("test_vit", weights="random", device="cuda"), ImageNet()
    samples = bench.open(data, loaded, limit=None, sample="first")
    found = []
    for waits in (False, True):
        monkeypatch.setattr(ImageNet, "waits", waits)
        batches = list(bench.batches(loaded, samples, batch_size=5, workers=workers))
        assert all(one.images.is_pinned() for one in batches)
        found.append(list(bench.evaluate(loaded, build("asap", k=2, tau=1.05), batches, seed=0)))
    assert found[0] == found[1]
