"""Sums that several processes keep, a piece each: the same bits wherever the run is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pictures import picture_folder
from torch import Tensor

from asap_eval.bench.bench import build_bench
from asap_eval.bench.walk.bench import WalkBench
from asap_eval.bench.walk.fixed_point import added, fixed, floating
from asap_eval.bench.walk.sums import StreamedSums
from asap_eval.errors import AsapEvalError, RecordError
from asap_eval.method import build_from
from asap_eval.models import LoadedModel, load_model
from asap_eval.record.journal import Row


def batches(count: int = 40) -> list[Tensor]:
    """Values whose fp64 sums depend on how they are grouped."""
    g = torch.Generator().manual_seed(0)
    return [
        torch.rand(3, 5, dtype=torch.float64, generator=g) * 10.0 ** -(at % 12)
        for at in range(count)
    ]


def test_floating_sums_would_depend_on_the_cut() -> None:
    """What the fixed-point numbers are for: without them this test's data tells cuts apart."""
    values = batches()
    halves = sum(values[:13]) + sum(values[13:])
    assert not torch.equal(torch.as_tensor(halves), torch.as_tensor(sum(values)))


@pytest.mark.parametrize("sign", [1, -1])
def test_fixed_sums_are_exact(sign: int) -> None:
    values = [sign * value for value in batches()]
    total = fixed(values[0])
    for value in values[1:]:
        total = added(total, fixed(value))
    exact = [
        float(sum((Fraction(float(v.flatten()[at])) for v in values), Fraction()))
        for at in range(15)
    ]
    found = floating(total).flatten().tolist()
    assert all(math.isclose(f, e, rel_tol=4e-16) for f, e in zip(found, exact, strict=True))


def test_what_does_not_fit_is_refused() -> None:
    for bad in (float("nan"), float("inf"), 2.0**31):
        with pytest.raises(AsapEvalError, match="finite"):
            fixed(torch.tensor([0.5, bad]))


@pytest.mark.parametrize("cuts", [[], [1], [13], [13, 14, 30]])
def test_pieces_add_up_to_the_whole(tmp_path: Path, cuts: list[int]) -> None:
    values = batches()
    whole = StreamedSums(tmp_path / "whole", 0)
    for value in values:
        whole.add({"total": value}, 2)
    bounds = [0, *cuts, len(values)]
    files = []
    for number, (first, last) in enumerate(pairwise(bounds)):
        piece = StreamedSums(tmp_path / f"{number}", 0)
        for value in values[first:last]:
            piece.add({"total": value, f"map:{number}": value}, 2)
        files.append((piece.path, piece.done))
    found = StreamedSums.joined(tmp_path / "joined", files)
    assert found.done == whole.done
    assert torch.equal(found.totals["total"], whole.totals["total"])
    assert len(found.totals) == 1 + len(files)
    with pytest.raises(RecordError, match="force=true"):
        StreamedSums.joined(tmp_path / "joined", [(files[0][0], 1)])


# The benchmark


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = picture_folder(tmp_path_factory.mktemp("walk") / "pictures")
    (root / "n01443537" / "003.png").write_bytes(b"no picture")
    return root


def measured(loaded: LoadedModel, pictures: Path, folder: Path, cuts: Sequence[int]) -> bytes:
    """The arrays of a run over 12 images in batches of 2, cut into pieces that each another
    process could measure; no cut = one process that keeps no pieces."""
    stem, rows, bounds, pieces = folder / "walk", list[Row](), [0, *cuts, 12], []
    for first, last in pairwise(bounds):
        bench = build_bench("walk")
        assert isinstance(bench, WalkBench)
        samples = bench.open(str(pictures), loaded, limit=None, sample="first")
        piece = folder / f"{first:09d}" if cuts else None
        bench.begin(stem, 0, piece)
        found = bench.batches(loaded, samples, batch_size=2, start=first)
        of_piece: list[Row] = []
        with closing(bench.evaluate(loaded, build_from("none", {}), found, seed=0)) as batches:
            while len(of_piece) < last - first:
                of_piece += next(batches)
        rows += of_piece
        if piece is not None:
            pieces.append((piece, len(of_piece)))
    if cuts:
        bench.gather(stem, pieces)
    name = bench.finish(rows, bench.geometry(loaded))
    if cuts:  # killed before the record was written: the merge begins again
        bench.gather(stem, pieces)
        assert bench.finish(rows, bench.geometry(loaded)) == name
    return (folder / name).read_bytes()


def test_arrays_are_the_same_bytes_for_any_cut(pictures: Path, tmp_path: Path) -> None:
    loaded = load_model("test_vit", weights="random")
    found = [
        measured(loaded, pictures, tmp_path / str(number), cuts)
        for number, cuts in enumerate([[], [4], [2, 8, 10], [6]])
    ]
    assert found[1:] == found[:1] * 3
