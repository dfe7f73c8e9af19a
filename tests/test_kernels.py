"""The compiled attention kernel: against float64, the same bits in any batch, and its build."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asap_eval.errors import BadValueError, KernelError
from asap_eval.kernels import (
    attention_kernel,
    available,
    build,
    native,
    packed_attention,
)

if not sys.platform.startswith("linux"):
    pytest.skip("native kernels are for Linux", allow_module_level=True)
if not any(map(shutil.which, ("gcc", "cc"))):
    # Clang alone writes for another OpenMP runtime than pip's torch brings.
    pytest.skip("no C compiler", allow_module_level=True)


@pytest.fixture(autouse=True)
def _default_switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(native.SWITCH, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def starts_of(lengths: Sequence[int]) -> list[int]:
    return [0, *accumulate(lengths)][:-1]


def tokens(count: int, heads: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v ``[T, H, d]`` as views of one buffer, as models make them."""
    made = torch.randn(count, 3, heads, width, generator=torch.Generator().manual_seed(seed))
    q, k, v = made.unbind(1)
    return q, k, v


def reference(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], bias: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The output ``[T, H, d]`` and each image's maps ``[H, N, N]`` in float64."""
    outs, maps = [], []
    for start, length in zip(starts_of(lengths), lengths, strict=True):
        rows = slice(start, start + length)
        queries, keys, values = (t[rows].double().transpose(0, 1) for t in (q, k, v))
        logits = queries @ keys.mT * q.shape[-1] ** -0.5
        if bias is not None:
            logits = logits + bias[rows].double()
        maps.append(logits.softmax(-1))
        outs.append((maps[-1] @ values).transpose(0, 1))
    return torch.cat(outs), maps


def dirty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the kernel is handed uninitialised holds NaN."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **kw: empty(*a, **kw).fill_(torch.nan))


def check(out: Tensor, maps: Tensor | None, wanted: tuple[Tensor, Tensor | None]) -> None:
    torch.testing.assert_close(out.double(), wanted[0], rtol=0, atol=4e-6)
    if wanted[1] is None:
        assert maps is None
    else:
        assert maps is not None
        torch.testing.assert_close(maps.double(), wanted[1], rtol=2e-5, atol=1e-7)


def test_the_kernel_is_there() -> None:
    """With a compiler at hand nothing below may pass by being skipped."""
    there, which = available()
    assert there, which
    assert attention_kernel("cpu", torch.float32) == f"native C ({which})"
    assert which.startswith(("gcc ", "clang "))


@pytest.mark.parametrize("width", [1, 7, 16, 32, 48, 64, 80])
@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 8, 9, 15, 16, 17, 47, 48, 49, 53, 196, 197])
def test_float64(monkeypatch: pytest.MonkeyPatch, length: int, width: int) -> None:
    dirty(monkeypatch)
    q, k, v = tokens(2 * length, 3, width)
    lengths = [length, length]
    out, maps = packed_attention(q, k, v, starts_of(lengths), lengths, map_of=[1, 0])
    wanted, each = reference(q, k, v, lengths)
    check(out, maps, (wanted, torch.stack([each[1].mean(0), each[0].mean(0)])))
    assert out.is_contiguous()


@pytest.mark.parametrize("heads", [1, 2, 6, 16])
@pytest.mark.parametrize("length", [257, 577, 600])
def test_long_images(monkeypatch: pytest.MonkeyPatch, length: int, heads: int) -> None:
    dirty(monkeypatch)
    q, k, v = tokens(length, heads, 64)
    out, maps = packed_attention(q, k, v, [0], [length], map_of=[0])
    wanted, each = reference(q, k, v, [length])
    check(out, maps, (wanted, each[0].mean(0)[None]))


@pytest.mark.parametrize("every_head", [False, True])
@pytest.mark.parametrize("longest", [None, 70])
def test_ragged(monkeypatch: pytest.MonkeyPatch, every_head: bool, longest: int | None) -> None:
    """Some images have maps, out of order; sizes and masked keys come as bias; padding is 0."""
    dirty(monkeypatch)
    lengths = [64, 50, 50, 17, 8, 3, 1]
    places = [-1, 2, -1, 0, 1, -1, 3]
    q, k, v = tokens(sum(lengths), 3, 48)
    sizes = torch.randint(1, 5, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    bias = sizes.float().log()
    bias[[0, 70, 110, 163]] = -torch.inf
    out, maps = packed_attention(
        q, k, v, starts_of(lengths), lengths, bias, places, longest, heads=every_head
    )
    side = longest or 50
    wanted, each = reference(q, k, v, lengths, bias)
    padded = torch.zeros(4, 3, side, side, dtype=torch.float64)
    for place, image in zip(places, each, strict=True):
        if place >= 0:
            padded[place, :, : image.shape[1], : image.shape[1]] = image
    expected = padded if every_head else padded.mean(1)
    check(out, maps, (wanted, expected))
    assert maps is not None
    assert (maps[expected == 0] == 0).all(), "padding and masked keys are exactly 0"


def test_images_may_lie_in_any_order() -> None:
    """As in a packed layout, where the longest lie first."""
    q, k, v = tokens(60, 2, 32)
    out, maps = packed_attention(q, k, v, [40, 0], [20, 40], map_of=[0, 1])
    wanted, each = reference(q, k, v, [40, 20])
    expected = torch.zeros(2, 40, 40, dtype=torch.float64)
    expected[0, :20, :20], expected[1] = each[1].mean(0), each[0].mean(0)
    check(out, maps, (wanted, expected))


def test_without_maps() -> None:
    q, k, v = tokens(90, 2, 64)
    for places in (None, [-1, -1]):
        out, maps = packed_attention(q, k, v, [0, 50], [50, 40], map_of=places)
        check(out, maps, (reference(q, k, v, [50, 40])[0], None))


def test_strides() -> None:
    """Every tensor with strides of its own: heads before tokens, contiguous, gaps in tokens."""
    q, k, v = tokens(75, 4, 64)
    wanted, each = reference(q, k, v, [75])
    q = q.transpose(0, 1).contiguous().transpose(0, 1)
    k = k.contiguous()
    v = torch.cat([v, v], 2).repeat_interleave(2, 0)[::2, :, 64:]
    out, maps = packed_attention(q, k, v, [0], [75], map_of=[0])
    check(out, maps, (wanted, each[0].mean(0)[None]))


def test_scale() -> None:
    q, k, v = tokens(30, 2, 64)
    out, _ = packed_attention(q, k, v, [0], [30], scale=0.5)
    check(out, None, (reference(q * 4, k, v, [30])[0], None))


def test_the_exponential() -> None:
    """Probabilities over the whole range of fp32; logits this large carry their own rounding."""
    logits = torch.linspace(-80, 5, 600)
    q = torch.ones(600, 1, 1)
    _, maps = packed_attention(q, logits[:, None, None], q, [0], [600], map_of=[0])
    assert maps is not None
    wanted = logits.double().softmax(0).expand(600, 600)
    torch.testing.assert_close(maps[0].double(), wanted, rtol=1.5e-5, atol=0)
    near = logits[-8:, None, None]
    _, maps = packed_attention(q[:8], near, q[:8], [0], [8], map_of=[0])
    assert maps is not None
    wanted = near[:, 0, 0].double().softmax(0).expand(8, 8)
    torch.testing.assert_close(maps[0].double(), wanted, rtol=5e-7, atol=0)


def test_nan_spoils_its_own_image_only() -> None:
    """What a broken model computes must not look healthy."""
    q, k, v = tokens(40, 2, 32)
    clean, _ = packed_attention(q, k, v, [0, 20], [20, 20])
    k[3] = torch.nan
    out, maps = packed_attention(q, k, v, [0, 20], [20, 20], map_of=[0, 1])
    assert maps is not None
    assert out[:20].isnan().all()
    assert maps[0].isnan().all()
    assert torch.equal(out[20:], clean[20:])


@pytest.mark.parametrize("width", [64, 80])
def test_a_batch_is_its_images_bit_for_bit(width: int) -> None:
    """However many images and threads: what a row becomes is its own image's matter."""
    lengths = [197, 197, 150, 150, 101, 64, 33, 7, 1]
    starts = starts_of(lengths)
    q, k, v = tokens(sum(lengths), 3, width)
    bias = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(2))
    torch.set_num_threads(2)
    out, maps = packed_attention(q, k, v, starts, lengths, bias, range(len(lengths)))
    assert maps is not None
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        again, same = packed_attention(q, k, v, starts, lengths, bias, range(len(lengths)))
        assert torch.equal(again, out)
        assert same is not None
        assert torch.equal(same, maps)
        for image, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            rows = slice(start, start + length)
            alone, own = packed_attention(
                q[rows], k[rows], v[rows], [0], [length], bias[rows], map_of=[0]
            )
            assert torch.equal(alone, out[rows]), f"{threads} threads, image {image}"
            assert own is not None
            assert torch.equal(own[0], maps[image, :length, :length])


def test_tasks_cover_every_row_once() -> None:
    lengths = (197, 40, 5)
    for threads in (1, 2, 7, 64):
        tasks, count, *_ = native._plan(242, (0, 197, 237), lengths, None, threads)
        rows = [
            task.start + row for task in list(tasks)[:count] for row in range(task.first, task.end)
        ]
        assert sorted(rows) == list(range(242)), threads
    assert native._plan(197, (0,), (197,), None, 2)[1] >= 2, "one image uses all threads"
    many = native._plan(32 * 197, tuple(range(0, 32 * 197, 197)), (197,) * 32, None, 2)
    assert many[1] == 32, "one task an image: keys are packed once"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"starts": [0, 11]}, "cover the 20 tokens"),
        ({"lengths": [10, 9]}, "hold 19 tokens"),
        ({"lengths": [10, 11]}, "hold 21 tokens"),
        ({"starts": [-10, 0]}, "cover"),
        ({"lengths": [20, 0]}, "cover"),
        ({"lengths": [20]}, "not of one batch"),
        ({"map_of": [0, 2]}, "without gaps"),
        ({"map_of": [0, 0]}, "without gaps"),
        ({"map_of": [0]}, "not of one batch"),
        ({"map_of": [0, 1], "longest": 9}, "longest is 9"),
        ({"bias": torch.zeros(19)}, "bias must be"),
        ({"bias": torch.zeros(20).double()}, "bias must be"),
        ({"q": torch.zeros(20, 2, 8).double()}, "fp32"),
        ({"k": torch.zeros(20, 2, 9)}, "one shape"),
        ({"v": torch.zeros(20, 2, 16)[:, :, ::2]}, "contiguous"),
        ({"q": torch.zeros(20, 2, 8, requires_grad=True)}, "requires grad"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    """The kernel trusts addresses and counts: they are checked before."""
    zeros = torch.zeros(20, 2, 8)
    given = {"q": zeros, "k": zeros, "v": zeros, "starts": [0, 10], "lengths": [10, 10], **change}
    with pytest.raises(ValueError, match=message):
        packed_attention(**given)  # type: ignore[arg-type]


def test_parameters_without_grad_are_fine() -> None:
    q, k, v = (t.clone().requires_grad_() for t in tokens(20, 2, 8))
    with torch.no_grad():
        packed_attention(q, k, v, [0], [20])
    with torch.inference_mode():
        packed_attention(q, k, v, [0], [20])


# ---- the build ----


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "asap_eval"


@pytest.fixture
def _unloaded() -> Iterator[None]:
    """`available` finds out anew, and again after the test."""
    native.load.cache_clear()
    yield
    native.load.cache_clear()


def compiler(path: Path, compiles: str) -> str:
    """A compiler that knows its version and otherwise runs a line of shell."""
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo fake 1.0 && exit 0\n{compiles}\n')
    path.chmod(0o755)
    return str(path)


def loaded() -> set[str]:
    """Files mapped into this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if "/" in line}


def test_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = loaded()
    build.library()
    (made,) = cache.iterdir()
    assert loaded() - before == {str(made)}, "no second OpenMP runtime"

    def never(*args: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(build, "_build", never)
    build.library()


def test_another_source_is_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build.library()
    first, *others = build.SOURCES
    changed = cache / first.name
    changed.write_text(first.read_text() + "/* changed */\n")
    for header in build.HEADERS:
        shutil.copy(header, cache)
    monkeypatch.setattr(build, "SOURCES", (changed, *others))
    build.library()
    assert len(list(cache.glob("*.so"))) == 2


def test_built_twice_at_once(cache: Path) -> None:
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(build.library())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert len(list(cache.iterdir())) == 1, "one library, nothing left over"


@pytest.mark.parametrize(
    ("compiles", "reason"),
    [
        (
            "echo 'In file x:' >&2; echo 'x.c:3: error: no good' >&2; exit 1",
            "x.c:3: error: no good",
        ),
        ("exit 0", "wrote no library"),
    ],
)
def test_a_failing_compiler(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiles: str, reason: str
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path / "fake-cc", compiles))
    with pytest.raises(KernelError, match=reason):
        build.library()
    assert not list(cache.iterdir())


def test_missing_symbols(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a torch whose OpenMP runtime the compiler does not write for."""
    source = tmp_path / "other.c"
    source.write_text(
        "void GOMP_of_another_runtime(void);\nvoid f(void) {GOMP_of_another_runtime();}"
    )
    monkeypatch.setattr(build, "SOURCES", (source,))
    with pytest.raises(KernelError, match="undefined symbol: GOMP_of_another_runtime"):
        build.library()


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "asap_eval").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(KernelError, match="cannot write the cache folder"):
        build.library()


@pytest.mark.usefixtures("_unloaded", "cache")
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("CC", "false", "C compiler false failed (exit 1)"),
        ("CC", "no-such-compiler -x", "C compiler CC=no-such-compiler -x not found"),
        ("PATH", "", "no C compiler found"),
    ],
)
def test_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv(variable, value)
    assert available() == (False, reason)
    assert attention_kernel("cpu", torch.float32) == f"torch ({reason})"
    q, k, v = tokens(4, 1, 8)
    with pytest.raises(KernelError, match="No native attention kernel"):
        packed_attention(q, k, v, [0], [4])
    monkeypatch.setenv(native.SWITCH, "native")
    with pytest.raises(KernelError, match="ASAP_EVAL_KERNELS=native, but"):
        available()


@pytest.mark.usefixtures("_unloaded")
def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert available() == (False, "no native kernel on win32")


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "torch")
    assert available() == (False, "ASAP_EVAL_KERNELS=torch")
    assert attention_kernel("cpu", torch.float32) == "torch (ASAP_EVAL_KERNELS=torch)"
    for value in ("native", "auto", ""):
        monkeypatch.setenv(native.SWITCH, value)
        assert available()[0]
    monkeypatch.setenv(native.SWITCH, "fast")
    with pytest.raises(BadValueError, match="give auto, torch or native"):
        available()


def test_the_name_elsewhere() -> None:
    assert attention_kernel("cuda", torch.float32) == "torch"
    assert attention_kernel(torch.device("cpu"), torch.bfloat16) == "torch"
