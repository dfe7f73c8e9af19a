"""Matching and moving tokens: the compiled kernels against float64, their bits, and torch's way."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor

import asap_eval
from asap_eval.kernels import native
from asap_eval.kernels.nearest import nearest, paired
from asap_eval.kernels.reduction import survey
from asap_eval.tokens import DROPPED, Reduction, Tokens

SHAPES = ((3, 3, 197, 64), (2, 1, 197, 192), (1, 2, 3, 5), (4, 6, 40, 20), (2, 1, 130, 8))
"""``b, H, N, d``: DeiT's keys, features, and full and partial tiles, panels and vectors."""


pytestmark = pytest.mark.usefixtures("_as_kernels_run")


def dirty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a kernel is handed uninitialised holds NaN, or a number that is no index."""
    empty = torch.empty

    def made(*args: object, **kwargs: object) -> Tensor:
        out: Tensor = empty(*args, **kwargs)  # type: ignore[call-overload]
        return out.fill_(torch.nan if out.is_floating_point() else -(2**60))

    monkeypatch.setattr(torch, "empty", made)


def keys_of(shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Keys as a view of a model's fused buffer, sources and targets of each image."""
    images, heads, tokens, width = shape
    g = torch.Generator().manual_seed(sum(shape))
    keys = torch.randn(images, tokens, 3, heads, width, generator=g)[:, :, 1].transpose(1, 2)
    order = torch.rand(images, tokens, generator=g).argsort(dim=1)
    return keys, order[:, : (tokens + 1) // 2], order[:, (tokens + 1) // 2 :]


# --- the nearest ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_nearest_against_float64(
    shape: tuple[int, int, int, int], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.SWITCH, kernel)
    keys, sources, targets = keys_of(shape)
    dirty(monkeypatch)
    best, partner = nearest(keys, sources, targets)
    mean = keys.double().mean(1)
    unit = mean / mean.norm(dim=-1, keepdim=True)
    rows, columns = (unit.take_along_dim(at[..., None], 1) for at in (sources, targets))
    cosine = rows @ columns.mT
    torch.testing.assert_close(best.double(), cosine.amax(-1), rtol=0, atol=1e-6)
    found = cosine.gather(2, partner[..., None])[..., 0]
    torch.testing.assert_close(found, cosine.amax(-1), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("shape", SHAPES)
def test_nearest_alone_has_the_same_bits(shape: tuple[int, int, int, int]) -> None:
    keys, sources, targets = keys_of(shape)
    torch.set_num_threads(1)
    whole = nearest(keys, sources, targets)
    torch.set_num_threads(3)
    for one in range(len(keys)):
        few = slice(one, one + 1)
        alone = nearest(keys[few].contiguous(), sources[few], targets[few])
        assert all(torch.equal(a, b[few]) for a, b in zip(alone, whole, strict=True))


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_among_equals_the_first_and_nan_is_above_all(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.SWITCH, kernel)
    keys = torch.zeros(1, 1, 44, 2)
    keys[0, 0, :, 0] = 1
    keys[0, 0, 1] = 0
    sources, targets = torch.arange(4)[None], torch.arange(4, 44)[None]
    best, partner = nearest(keys, sources, targets)
    assert best.tolist() == [[1, 0, 1, 1]]
    assert partner.tolist() == [[0, 0, 0, 0]]
    keys[0, 0, [4 + 21, 4 + 38]] = torch.nan
    keys[0, 0, 2] = torch.nan
    best, partner = nearest(keys, sources, targets)
    assert best.isnan().all()
    assert partner.tolist() == [[21, 21, 0, 21]]
    best, partner = nearest(keys, sources, targets, protected=(2, 22))
    assert best.isnan().all()
    assert partner.tolist() == [[0, 16]]
    for none in ((0, 40), (0, 41)):
        with pytest.raises(ValueError, match="no target"):
            nearest(keys, sources, targets, none)


@pytest.mark.parametrize("prefix", range(4))
@pytest.mark.parametrize("tokens", [9, 10, 131])
def test_both_ways_pair_alike(prefix: int, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also equal cosines and NaN, which torch sorts to the front."""
    sources = (tokens + 1) // 2 - (prefix + 1) // 2
    targets = tokens - prefix - sources
    g = torch.Generator().manual_seed(tokens)
    best = torch.randint(0, 9, (3, sources), generator=g) / 9
    best[1, ::3] = torch.nan
    best[2] = 0.5
    partner = torch.randint(0, targets, (3, sources), generator=g)
    for r in (0, 1, sources // 2, min(sources, targets)):
        monkeypatch.setenv(native.SWITCH, "torch")
        wanted = paired(best, partner, r, prefix, tokens)
        monkeypatch.setenv(native.SWITCH, "auto")
        with monkeypatch.context() as context:
            dirty(context)
            found = paired(best, partner, r, prefix, tokens)
        assert torch.equal(found, wanted)
        assert (found.amax(1) == tokens - r - 1).all()


# --- moving tokens --------------------------------------------------------------------------------


def batch_of(seed: int, width: int = 20) -> tuple[Tokens, Tensor]:
    """Padded tokens of several sizes, and slots: some alone, some shared, some dropped."""
    g = torch.Generator().manual_seed(seed)
    size = torch.randint(1, 4, (4, 30), generator=g).float()
    group = torch.randint(0, 9, (4, 30), generator=g)
    group[:, :9] = torch.arange(9)
    group[torch.rand(4, 30, generator=g) < 0.3] = DROPPED
    for image, (length, slots) in enumerate(((30, 9), (30, 5), (21, 9), (7, 3))):
        group[image] = torch.where(group[image] < slots, group[image], DROPPED)
        group[image, :slots] = torch.arange(slots).flip(0)
        group[image, length:] = DROPPED
        size[image, length:] = 0
    source = torch.randint(-1, 7, (4, 50), generator=g)
    return Tokens(torch.randn(4, 30, width, generator=g), size, source, 1), group


def reductions(group: Tensor) -> list[Reduction]:
    g = torch.Generator().manual_seed(9)
    weight, share = torch.rand(2, *group.shape, generator=g).unbind(0)
    return [
        Reduction(group),
        Reduction(group, weight),
        Reduction(group, share=share - 0.5),
        Reduction(group, weight, share=share),
    ]


@pytest.mark.parametrize("width", [20, 16, 3])
def test_both_ways_move_alike(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start, group = batch_of(width, width)
    for reduction in reductions(group):
        monkeypatch.setenv(native.SWITCH, "torch")
        wanted = start.apply(reduction)
        monkeypatch.setenv(native.SWITCH, "auto")
        with monkeypatch.context() as context:
            dirty(context)
            found = start.apply(reduction)
        torch.testing.assert_close(found.x, wanted.x, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.size, wanted.size, rtol=1e-6, atol=0)
        assert torch.equal(found.source, wanted.source)


@pytest.mark.usefixtures("_compiled")
def test_moved_alone_has_the_same_bits() -> None:
    start, group = batch_of(1)
    for reduction in reductions(group):
        torch.set_num_threads(1)
        whole = start.apply(reduction)
        torch.set_num_threads(3)
        for one in range(len(group)):
            few = slice(one, one + 1)
            own, weight, share = (
                None if t is None else t[few]
                for t in (reduction.group, reduction.weight, reduction.share)
            )
            assert own is not None
            tokens = Tokens(start.x[few], start.size[few], start.source[few], 1)
            alone = tokens.apply(Reduction(own, weight, share=share))
            slots = alone.x.shape[1]
            assert torch.equal(alone.x, whole.x[few, :slots])
            assert torch.equal(alone.size, whole.size[few, :slots])
            assert not whole.x[few, slots:].any()
            assert torch.equal(alone.source, whole.source[few])


def test_other_precisions_and_gradients_take_torchs_way() -> None:
    start, group = batch_of(2)
    wide = Tokens(start.x.double(), start.size, start.source, 1).apply(Reduction(group))
    assert wide.x.dtype == torch.float64
    torch.testing.assert_close(start.apply(Reduction(group)).x.double(), wide.x)
    with torch.enable_grad():
        x = start.x.clone().requires_grad_()
        Tokens(x, start.size, start.source, 1).apply(Reduction(group)).x.sum().backward()
    assert x.grad is not None
    assert x.grad.any()


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_the_survey_counts(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, kernel)
    size = torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 1], [1, 2, 1, 0], [1, 1, 1, 1]])
    group = torch.tensor([[0, 1, 2, -1], [0, 1, 1, -1], [0, 1, 2, -1], [0, 2, 1, 3]])
    assert survey(group, size).tolist() == [[3, 2, 3, 4], [0, 1, 1, 0], [0, 1, 0, 1]]
    share = torch.tensor([1.0, 0.5, 1, 1]).expand(4, 4)
    assert survey(group, size, share)[1].tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_what_does_not_fit_is_refused(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, kernel)
    start, group = batch_of(3)
    with pytest.raises(ValueError, match="int64"):
        survey(group.int(), start.size)
    with pytest.raises(ValueError, match=r"give \[4, 30\]"):
        survey(group[:, 1:], start.size)
    with pytest.raises(ValueError, match="one a token"):
        survey(group, start.size, start.size[:, 1:])
    keys, sources, targets = keys_of(SHAPES[0])
    with pytest.raises(ValueError, match="int64"):
        nearest(keys, sources.int(), targets)
    with pytest.raises(ValueError, match="of 3 images"):
        nearest(keys, sources, targets[:1])


# --- whole models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tome", "ppt", "tofu", "diffrate", "evit"])
def test_a_model_gives_the_same_with_and_without(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = tiny.vit(), tiny.images(3)
    logits = []
    options = {"diffrate": {"prune": [30, 25], "merge": [28, 20]}, "ppt": {"r": 4}}
    for kernel in ("torch", "auto"):
        monkeypatch.setenv(native.SWITCH, kernel)
        given = options.get(method, {"k": {"tome": 3, "tofu": 0.8}.get(method, 0.7)})
        with asap_eval.reduce(model, method, **given):
            logits.append(model(images))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-5)
