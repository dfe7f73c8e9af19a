"""What feeds a model: bytes from decoding, numbers where the model is, rows one batch late."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import picture_folder
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import MaybeToTensor
from torchvision import transforms

from asap_eval.bench import image_bench
from asap_eval.bench.bench import build_bench
from asap_eval.data import feeding
from asap_eval.data.feeding import fed
from asap_eval.data.transforms import PictureSteps, split
from asap_eval.method import build
from asap_eval.models import load_model

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(("mean", "std"), [IMAGENET, CLIP, HALF])
def test_every_byte_is_the_number_that_torchvision_makes(mean: Any, std: Any) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(np.stack([every] * 3, axis=2))
    whole = transforms.Compose(
        [transforms.CenterCrop(16), MaybeToTensor(), transforms.Normalize(mean, std)]
    )
    steps, scaling = split(whole)
    assert scaling is not None
    assert steps(picture).dtype == torch.uint8
    assert torch.equal(scaling(steps(picture)), whole(picture))
    assert torch.equal(scaling(torch.stack([steps(picture)] * 2))[1], whole(picture))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_timms_transforms_are_split(mode: str, interpolation: str) -> None:
    whole = create_transform(
        (3, 64, 48), interpolation=interpolation, crop_pct=0.9, crop_mode=mode, is_training=False
    )
    steps, scaling = split(whole)
    assert isinstance(steps, PictureSteps)
    assert scaling is not None
    assert steps.shape() == (3, 64, 48)
    for size in ((200, 90), (90, 200), (64, 48), (20, 30)):
        assert torch.equal(scaling(steps(noise(*size))), whole(noise(*size)))


class Inverted(transforms.Normalize):
    """A transform of one's own that looks like a known one."""

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return -super().forward(tensor)


@pytest.mark.parametrize(
    "whole",
    [
        transforms.ToTensor(),
        transforms.Compose([transforms.ToTensor()]),
        transforms.Compose([transforms.ToTensor(), Inverted(*HALF)]),
        transforms.Compose([transforms.Normalize(*HALF), transforms.ToTensor()]),
        transforms.Compose(
            [transforms.Grayscale(3), transforms.ToTensor(), transforms.Normalize(*HALF)]
        ),
        transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]),
    ],
)
def test_other_transforms_run_whole(whole: Any) -> None:
    assert split(whole) == (whole, None)


def test_pictures_of_changing_size_have_no_shape() -> None:
    steps, _ = split(
        transforms.Compose(
            [transforms.Resize(32), transforms.ToTensor(), transforms.Normalize(*HALF)]
        )
    )
    assert isinstance(steps, PictureSteps)
    assert steps.shape() is None


@pytest.mark.parametrize(
    ("bench", "method", "params"),
    [
        ("imagenet", "none", {}),
        ("imagenet", "asap", {"k": 2, "tau": 1.05}),
        ("imagenet", "tome", {"k": 4}),
        ("keepmaps", "random", {"k": 0.5}),
    ],
)
def test_late_rows_are_the_same_rows(
    bench: str, method: str, params: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture_folder(tmp_path / "data", each=3)
    for name in (f"00{at}.png" for at in range(3)):  # a batch in which nothing can be read
        sorted(data.iterdir())[1].joinpath(name).write_bytes(b"no picture")
    loaded, made = load_model("test_vit", weights="random"), build_bench(bench)
    samples = made.open(str(data), loaded, limit=None, sample="first")
    batches = list(made.batches(loaded, samples, batch_size=3))
    taken: list[int] = []

    def taking() -> Iterator[Any]:
        for at, batch in enumerate(batches):
            taken.append(at)
            yield batch

    def rows() -> Iterator[list[Any]]:
        return made.evaluate(loaded, build(method, **params), taking(), seed=0)

    at_once = list(rows())
    monkeypatch.setattr(image_bench, "_on_a_gpu", lambda loaded: True)
    taken.clear()
    with contextlib.closing(rows()) as late:  # type: ignore[type-var]
        first = next(late)
        assert taken == [0, 1]
        assert [first, *late] == at_once


def test_the_walk_makes_its_rows_at_once() -> None:
    assert not build_bench("walk").waits  # type: ignore[attr-defined]


def test_on_a_gpu_the_next_batch_is_sent_before_the_model_gets_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With stand-ins: what is queued where, and in which order."""
    done: list[str] = []

    class Stream:
        def __init__(self, device: Any = None) -> None:
            assert device.index == 1

        def wait_event(self, event: Event) -> None:
            done.append(f"model waits for {event.behind}")

    class Event:
        behind = ""

        def __init__(self, enable_timing: bool = False) -> None:
            assert not enable_timing

        def record(self, stream: Stream) -> None:
            self.behind = done[-1]

    class Images:
        def record_stream(self, stream: Stream) -> None:
            done.append("kept for the model")

    class Batch:
        images = Images()

        def __init__(self, name: str) -> None:
            self.name = name

        def on(self, device: torch.device) -> Batch:
            done.append(self.name)
            return self

    cuda = torch.cuda
    monkeypatch.setattr(cuda, "Stream", Stream)
    monkeypatch.setattr(cuda, "Event", Event)
    monkeypatch.setattr(cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(cuda, "current_stream", Stream)
    batches: list[Any] = [Batch("a"), Batch("b")]
    for batch, there in fed(batches, torch.device("cuda", 1)):
        assert batch is there
        done.append(f"model runs {batch.name}")  # type: ignore[attr-defined]
    assert done == [
        *("a", "b", "model waits for a", "kept for the model", "model runs a"),
        *("model waits for b", "kept for the model", "model runs b"),
    ]
    assert list(feeding.fed([], torch.device("cuda", 1))) == []
