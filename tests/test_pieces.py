"""Pieces: cut at batch ends alone, with rows that are those of the whole run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
from cases import VISION, Case
from pictures import picture_folder
from torchvision.transforms import Compose, Resize

from asap_eval.bench.bench import build_bench
from asap_eval.bench.imagenet import ImageNet
from asap_eval.bench.walk.bench import WalkBench
from asap_eval.data.images import ImageSet
from asap_eval.errors import BadValueError
from asap_eval.method import build
from asap_eval.models import LoadedModel, load_model, load_vlm
from asap_eval.record.journal import Row
from asap_eval.runner.pieces import Piece, cut, pieces


@pytest.mark.parametrize(
    ("ends", "n", "size", "found"),
    [
        ([4, 8, 12], 12, 4, [(0, 4), (4, 8), (8, 12)]),
        ([4, 8, 12], 12, 5, [(0, 8), (8, 12)]),
        ([4, 8], 10, 4, [(0, 4), (4, 8), (8, 10)]),
        ([4, 8], 10, 100, [(0, 10)]),
        ([3, 4, 7, 8], 8, 4, [(0, 4), (4, 8)]),  # no batch holds two tasks
        ([], 3, 1, [(0, 3)]),
        ([], 0, 1, []),
    ],
)
def test_pieces_are_whole_batches(
    ends: Sequence[int], n: int, size: int, found: list[tuple[int, int]]
) -> None:
    assert pieces(ends, n, size) == found


def test_what_is_there_is_no_piece() -> None:
    assert pieces([4, 8, 12], 12, 4, start=8) == [Piece(8, 12)]
    assert pieces([4, 8, 12], 12, 4, start=12) == []
    with pytest.raises(BadValueError, match=r"launch\.piece=0"):
        pieces([4], 4, 0)


@functools.cache
def small() -> LoadedModel:
    """The tiny host of the contract tests, which sees pictures of 24 pixels."""
    plain = load_model("test_vit", weights="random")
    steps = Compose([plain.transform, Resize(24, antialias=True)])
    return dataclasses.replace(
        plain, model=tiny.HOSTS["plain"](), transform=steps, labels="folders"
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = picture_folder(tmp_path_factory.mktemp("data") / "pictures", each=4)
    loaded = load_model("test_vit", weights="random")
    return ImageNet().open(str(folder), loaded, limit=None, sample="first")


def rows(case: Case, images: ImageSet, start: int, stop: int | None) -> list[Row]:
    """Rows of a stretch of images under a method that begins anew."""
    bench, loaded = ImageNet(), small()
    batches = bench.batches(loaded, images, batch_size=3, start=start, stop=stop)
    return [row for batch in bench.evaluate(loaded, case.build(), batches, seed=5) for row in batch]


@pytest.mark.parametrize("case", VISION, ids=str)
def test_rows_of_pieces_are_those_of_the_whole(case: Case, images: ImageSet) -> None:
    """For every method of the contract tests, options that do nothing included."""
    whole = rows(case, images, 0, None)
    assert len(whole) == 12
    cuts = [(0, 3), (3, 9), (9, 12)]
    assert [row for start, stop in cuts for row in rows(case, images, start, stop)] == whole


@pytest.mark.parametrize("method", ["none", "fastv", "visionzip"])
def test_rows_of_questions_are_those_of_the_whole(questions: Path, method: str) -> None:
    params: dict[str, Any] = {"tasks": ["pope", "gqa"], "new_tokens": 2}
    bench, loaded = build_bench("vlm", **params), load_vlm("llava_tiny")
    samples = bench.open(str(questions), loaded, limit=4, sample="first")

    def found(start: int, stop: int | None) -> list[Row]:
        given = bench.batches(loaded, samples, batch_size=2, start=start, stop=stop)
        made = bench.evaluate(loaded, build(method), given, seed=0)
        return [row for batch in made for row in batch]

    whole = found(0, None)
    cuts = cut(bench, samples, 2, 3)
    assert len(cuts) > 1
    assert [row for piece in cuts for row in found(*piece)] == whole


def test_a_benchmark_that_cannot_be_spread_is_one_piece(images: ImageSet) -> None:
    assert len(cut(ImageNet(), images, 3, 3)) == 4
    assert len(cut(WalkBench(), images, 3, 3)) == 4
    latency = build_bench("latency")
    assert latency.no_pieces is not None
    assert cut(latency, images, 3, 3) == [Piece(0, 12)]
