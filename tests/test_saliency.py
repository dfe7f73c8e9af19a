"""Saliency: masks lie where the patches are, fates are counted right, sinks are the walk's."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from pictures import TINY
from PIL import Image
from sheets import texts
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import Compose, RandomCrop

import asap_eval
from asap_eval.bench.bench import build_bench
from asap_eval.bench.patches import FATES, fates_of
from asap_eval.bench.saliency import Saliency
from asap_eval.bench.sink_watch import ALPHA, SinkWatch, watched
from asap_eval.bench.walk import random_walk as walk
from asap_eval.cli import main
from asap_eval.cli.report.tables import render
from asap_eval.data.masks import Coverage, MaskStore, geometry_only
from asap_eval.errors import BadValueError, DataError
from asap_eval.hosts import geometry_of, install
from asap_eval.method import build
from asap_eval.models import LoadedModel, ModelSpec, WeightsInfo
from asap_eval.record import Budget, Job, read_record
from asap_eval.record.journal import Journal
from asap_eval.report.layouts.overview import overview
from asap_eval.runner import Outcome, run

MEAN, STD = 0.5, 0.25


def mask_of(number: int, size: tuple[int, int]) -> Image.Image:
    """Blocks of foreground at random places, 0 and 255."""
    g = torch.Generator().manual_seed(number)
    blocks = torch.randint(0, 2, (5, 6), generator=g).to(torch.uint8) * 255
    return Image.fromarray(blocks.numpy()).resize(size, Image.Resampling.NEAREST)


def photographs(root: Path, sizes: list[tuple[int, int]], masks: str = "masks") -> Path:
    """Images whose content is their mask."""
    for folder in ("images", masks):
        (root / folder).mkdir(parents=True)
    for number, size in enumerate(sizes):
        mask = mask_of(number, size)
        mask.convert("RGB").save(root / "images" / f"{number:04d}.png")
        mask.save(root / masks / f"{number:04d}.png")
    return root


def transform_of(**config: Any) -> Any:
    """timm's evaluation transform."""
    given = {"input_size": (3, 24, 24), "crop_pct": 0.8, "interpolation": "bicubic", **config}
    return create_transform(**given, mean=(MEAN,) * 3, std=(STD,) * 3, is_training=False)


# Masks


@pytest.mark.parametrize(
    ("config", "size", "tolerance"),
    [
        ({}, (30, 40), 1e-6),  # the shorter side has the size before the crop: nothing is blurred
        ({}, (41, 30), 1e-6),
        ({"crop_mode": "squash", "crop_pct": 1.0}, (24, 24), 1e-6),
        ({}, (300, 400), 0.08),  # bicubic against area
        ({}, (301, 211), 0.08),
        ({"crop_mode": "squash", "crop_pct": 1.0}, (300, 200), 0.08),
        ({"crop_pct": 1.0, "interpolation": "bilinear"}, (120, 90), 0.08),
    ],
)
def test_a_mask_lies_where_its_image_lies(
    config: dict[str, Any], size: tuple[int, int], tolerance: float, tmp_path: Path
) -> None:
    """An image that shows its mask has, in each patch, the mean that the mask covers."""
    data = photographs(tmp_path / "data", [size] * 3)
    transform, store = transform_of(**config), MaskStore(str(data))
    covers = Coverage(store, range(3), transform, (6, 6))
    for place in range(3):
        with Image.open(data / store.ids[place]) as image:
            pixels = transform(image.convert("RGB"))[0] * STD + MEAN
        patches = torch.nn.functional.avg_pool2d(pixels[None], 4).flatten()
        covered = covers(place)
        assert 0.1 < float(covered.mean()) < 0.9
        assert float((patches - covered).abs().max()) <= tolerance
        # The test can fail: the next patch is something else.
        assert float((patches.roll(1) - covered).abs().max()) > 0.5


def test_nothing_is_foreground_outside_the_photograph(tmp_path: Path) -> None:
    data = photographs(tmp_path, [(24, 16)])
    Image.new("L", (24, 16), 255).save(data / "masks" / "0000.png")
    padded = transform_of(crop_mode="border", crop_pct=1.0)
    covered = Coverage(MaskStore(str(data)), [0], padded, (6, 6))(0)
    assert covered.view(6, 6)[:, 0].tolist() == [0, 1, 1, 1, 1, 0]


def test_a_transform_that_masks_cannot_follow_is_refused() -> None:
    with pytest.raises(BadValueError, match="RandomCrop"):
        geometry_only(Compose([RandomCrop(8)]))


def test_grey_masks_are_split_in_the_middle(tmp_path: Path) -> None:
    data = photographs(tmp_path, [(24, 24)])
    grey = Image.new("L", (24, 24), 127)
    grey.paste(128, (0, 0, 12, 24))
    grey.save(data / "masks" / "0000.png")
    transform = transform_of(crop_pct=1.0)
    covered = Coverage(MaskStore(str(data)), [0], transform, (6, 6))(0)
    assert covered.view(6, 6).tolist() == [[1, 1, 1, 0, 0, 0]] * 6


@pytest.mark.parametrize("folder", ["masks", "ground_truth_mask"])
def test_both_layouts_are_read(folder: str, tmp_path: Path) -> None:
    store = MaskStore(str(photographs(tmp_path, [(30, 20)] * 3, folder)))
    assert store.ids == [f"images/000{n}.png" for n in range(3)]
    assert [mask.parent.name for mask in store.masks] == [folder] * 3
    assert store.labels == [None] * 3


def _without_masks(data: Path) -> None:
    (data / "masks").rename(data / "other")


def _both(data: Path) -> None:
    (data / "ground_truth_mask").mkdir()


def _one_missing(data: Path) -> None:
    (data / "masks" / "0002.png").unlink()


def _other_size(data: Path) -> None:
    mask_of(1, (31, 40)).save(data / "masks" / "0001.png")


def _no_images(data: Path) -> None:
    (data / "images").rename(data / "pictures")


def _empty(data: Path) -> None:
    for file in (data / "images").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_without_masks, "neither of masks and ground_truth_mask"),
        (_both, "both of masks"),
        (_one_missing, r"1 of 4 images have no mask in masks/: 0002\.png"),
        (_other_size, r"0001\.png 30x40, its mask 31x40"),
        (_no_images, "images No such file"),
        (_empty, "no image in images/"),
    ],
)
def test_data_that_cannot_be_used_is_said_before_any_run(
    damage: Any, says: str, tmp_path: Path
) -> None:
    data = photographs(tmp_path / "data", [(30, 40)] * 4)
    damage(data)
    with pytest.raises(DataError, match=says):
        run(job_of(data), results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


# Figures


def test_fates_of_hand_made_sources() -> None:
    source = torch.tensor([
        [1, 2, 3, 4],  # all alone
        [1, 2, 2, -1],  # two share a slot, one is gone
        [-1, -1, -1, 1],
        [5, 5, 5, 5],
    ])  # fmt: skip
    names = [[FATES[fate] for fate in row] for row in fates_of(source).tolist()]
    assert names == [
        ["kept"] * 4,
        ["kept", "pooled", "pooled", "dropped"],
        ["dropped", "dropped", "dropped", "kept"],
        ["pooled"] * 4,
    ]


def row(front: tuple[int, int, int], back: tuple[int, int, int], **more: Any) -> dict[str, Any]:
    sides = {"foreground": front, "background": back}
    return {side: dict(zip(FATES, n, strict=True)) for side, n in sides.items()} | more


def test_figures_of_hand_made_rows() -> None:
    rows = [
        row((3, 1, 0), (2, 2, 2), sink_on_foreground=True),
        row((1, 0, 1), (8, 0, 0), sink_on_foreground=False),
        row((10, 0, 0), (0, 0, 0), sink_on_foreground=None),  # all foreground, never fired
    ]
    found = Saliency(threshold=0.25).analysis(rows, geometry_of(tiny.vit()))
    assert found["threshold"] == 0.25
    assert (found["images"], found["images_of_one_kind"]) == (3, 1)
    assert found["base_rate"] == pytest.approx((0.4 + 0.2 + 1) / 3)
    assert found["keep_rate"] == pytest.approx((0.5 + 0.9 + 1) / 3)
    assert found["foreground_recall"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["background_removal"] == pytest.approx((4 / 6 + 0) / 2)
    assert found["background_pooled"] == pytest.approx(found["background_dropped"])
    assert found["foreground_pooled"] == pytest.approx(1 / 8)
    assert found["foreground_dropped"] == pytest.approx(1 / 4)
    assert found["youden_j"] == pytest.approx(((3 / 4 + 4 / 6 - 1) + (1 / 2 - 1)) / 2)
    low, high = found["youden_j_ci95"]
    assert (low, high) == (-1, 1)  # two images say nothing
    assert (found["sink_images"], found["sink_on_foreground"]) == (2, 0.5)
    assert found["sink_base_rate"] == pytest.approx(0.3)
    assert "blocks" not in found
    with pytest.raises(DataError, match="both foreground and background"):
        Saliency().analysis(rows[2:], geometry_of(tiny.vit()))


def maps_of(model: Any, x: Tensor) -> list[Tensor]:
    """Head-mean attention of each block, ``[B, N, N]``, from the model's own projections."""
    found = []

    def keep(module: Any, args: tuple[Tensor, ...]) -> None:
        count, tokens, width = args[0].shape
        qkv = module.qkv(args[0]).view(count, tokens, 3, module.num_heads, -1)
        q, k, _ = qkv.permute(2, 0, 3, 1, 4)
        found.append((q @ k.mT * (width // module.num_heads) ** -0.5).softmax(-1).mean(1))

    handles = [block.attn.register_forward_pre_hook(keep) for block in model.blocks]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


def test_watched_sinks_are_those_of_the_whole_walk() -> None:
    model, x = tiny.large(), tiny.images(6, size=32)
    with torch.inference_mode(), install(model, SinkWatch()) as trace:
        logits = model(x)
    assert torch.equal(trace.lengths, torch.full_like(trace.lengths, 65))
    torch.testing.assert_close(logits, model(x))
    places = watched(trace.notes, 6)
    chain = walk.start(6, 65)
    for block, attention in enumerate(maps_of(model, x)):
        chain = chain @ (ALPHA * attention + (1 - ALPHA) * torch.eye(65))
        assert torch.equal(places["heaviest"][:, block], chain.sum(1)[:, 1:].argmax(1))
        assert torch.equal(places["cls"][:, block], chain[:, 0, 1:].argmax(1))
    assert len(places["cls"].unique()) > 6


def test_asaps_sink_is_the_one_that_was_watched() -> None:
    model, x = tiny.large(), tiny.images(6, size=32)
    with torch.inference_mode():
        with asap_eval.reduce(model, "asap", k=3, tau=2.0) as reduced:
            model(x)
        with install(model, SinkWatch()) as trace:
            model(x)
    fired = reduced.fired
    assert len(fired[fired > 0].unique()) > 1
    for image in (fired > 0).nonzero().flatten().tolist():
        watched_there = watched(trace.notes, 6)["cls"][image, fired[image] - 1]
        assert reduced.notes["sink"][image] == watched_there


def test_without_a_class_token_there_is_no_row_of_it() -> None:
    model, x = tiny.HOSTS["avg_without_cls"](), tiny.images(2)
    with torch.inference_mode(), install(model, SinkWatch()) as trace:
        model(x)
    assert set(watched(trace.notes, 5)) == {"heaviest"}


# Whole runs


def loaded_tiny() -> LoadedModel:
    weights = WeightsInfo("tiny", "0" * 64, trained=False)
    return LoadedModel(
        tiny.vit(1), transform_of(), tiny.CLASSES, "tiny", None, weights, "none", ModelSpec("tiny")
    )


def test_rows_of_a_tiny_model_say_what_its_trace_says(tmp_path: Path) -> None:
    data = photographs(tmp_path, [(30, 40), (40, 30), (33, 47), (60, 60), (30, 30)])
    loaded, bench = loaded_tiny(), build_bench("saliency", threshold=0.6)
    images = bench.open(str(data), loaded, limit=None, sample="first")
    batches = list(bench.batches(loaded, images, batch_size=2))
    reducer = build("random", k=0.5, layer=2, rest="drop")
    rows = [r for rows in bench.evaluate(loaded, reducer, batches, seed=0) for r in rows]
    assert [r["id"] for r in rows] == images.ids

    at = 0
    for batch in batches:
        with torch.inference_mode(), install(loaded.model, reducer) as trace:
            trace.name_images(batch.ids)
            loaded.model(batch.pixels)
        for place, own in enumerate(trace.source):
            front = batch.beside[place] >= 0.6
            kept = own >= 0
            assert rows[at]["foreground"] == {
                "kept": int((kept & front).sum()), "pooled": 0,
                "dropped": int((~kept & front).sum()),
            }  # fmt: skip
            assert rows[at]["background"]["kept"] == int((kept & ~front).sum())
            at += 1
    summary = bench.summarise(rows, geometry_of(loaded.model), "full")
    assert summary.metrics is None
    assert summary.analysis is not None
    assert summary.analysis["keep_rate"] == pytest.approx(0.5)
    assert summary.macs.reduction_pct < 0


def job_of(data: Path, **changes: Any) -> Job:
    job = Job("test_vit", weights="random", data=str(data), batch_size=4, bench="saliency")
    return dataclasses.replace(job, **changes)


@pytest.fixture(scope="session")
def ecssd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = [(200, 170 + 7 * n) for n in range(6)]
    return photographs(tmp_path_factory.mktemp("saliency") / "data", sizes)


def rows_of(outcome: Outcome) -> list[dict[str, Any]]:
    return Journal(outcome.path.with_name(str(outcome.record.samples))).read()


def test_the_unpruned_model_shows_its_sinks(ecssd: Path, tmp_path: Path) -> None:
    outcome = run(job_of(ecssd), results=tmp_path)
    record = outcome.record
    assert read_record(outcome.path) == record
    assert record.analysis is not None
    assert record.macs is not None
    assert record.macs.reduction_pct == 0
    assert (record.analysis["foreground_recall"], record.analysis["youden_j"]) == (1, 0)
    assert record.job.bench_params == {"threshold": 0.5}
    rows = rows_of(outcome)
    for number, block in enumerate(record.analysis["blocks"]):
        assert block["block"] == number + 1
        for name in ("heaviest_on_foreground", "cls_on_foreground"):
            assert block[name] == pytest.approx(sum(r[name][number] for r in rows) / 6)
    table, sinks = overview([record])
    assert "threshold=0.5" in table.title
    assert len(sinks.rows) == 6
    assert f"{record.analysis['base_rate']:.3f}" in sinks.notes()[0]


def test_a_budget_a_sink_and_an_unreadable_mask(ecssd: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(ecssd, data)
    (data / "masks" / "0003.png").write_bytes(b"no picture")
    asap = {"tau": 1.0, "m": 2}
    reduced = run(job_of(data, method="asap", k=3.0, params=asap), results=tmp_path / "r")
    record = reduced.record
    assert record.status == "done"
    (failure,) = record.provenance.failures
    assert failure["id"] == "images/0003.png"
    assert "mask 0003.png" in failure["message"]
    assert record.analysis is not None
    assert (record.analysis["images"], record.analysis["sink_images"]) == (5, 5)
    on = [r["sink_on_foreground"] for r in rows_of(reduced) if r["error"] is None]
    assert record.analysis["sink_on_foreground"] == pytest.approx(sum(on) / 5)
    assert (record.metrics, record.baseline, record.paired) == (None, None, None)

    budget = Budget("macs", -20, 4)
    control = run(job_of(data, method="random", budget=budget), results=tmp_path / "r").record
    found = control.provenance.calibration
    assert found is not None
    assert found.evaluated == pytest.approx(-20, abs=1)
    assert not found.disjoint  # no photographs are left: the same ones, and the record says so
    assert "blocks" not in control.analysis
    (table,) = overview([record, control])
    assert [r[0] for r in texts(table)] == ["asap", "random"]
    assert "6 (1 failed)" in texts(table)[0]
    assert any(cell.endswith(", 5") for cell in texts(table)[0])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bench_params": {"threshold": 0.0}}, "threshold=0"),
        ({"bench_params": {"threshold": 1.5}}, "threshold=1.5"),
        ({"speed": True}, "bench=imagenet"),
    ],
)
def test_what_it_refuses(ecssd: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadValueError, match=says):
        run(job_of(ecssd, **changes), results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_csv_holds_the_analysis(ecssd: Path, tmp_path: Path) -> None:
    record = run(job_of(ecssd, limit=2), results=tmp_path).record
    (line,) = csv.DictReader(io.StringIO(render([record], "csv")))
    assert json.loads(line["analysis"]) == record.analysis


def test_its_option_is_a_key_of_the_command_line(
    ecssd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*TINY, f"data={ecssd}", f"results={tmp_path / 'r'}", "bench=saliency", "limit=2"]
    assert main([*given, "bench.threshold=0.3"]) == 0
    record = read_record(Path(capsys.readouterr().out.splitlines()[-1]))
    assert record.job.bench_params == {"threshold": 0.3}
    assert record.analysis is not None
    assert record.analysis["threshold"] == 0.3
    assert main([*given, "bench.treshold=0.3"]) == 2
    assert "bench.threshold" in capsys.readouterr().err
    assert main([*given, "bench.threshold=much"]) == 2
    assert "saliency.threshold='much'" in capsys.readouterr().err


# Real weights and photographs


@pytest.mark.golden("data/weights/deit_tiny_patch16_224.safetensors", "data/ecssd/*/*")
def test_where_the_walk_of_deit_tiny_gathers(shared: Path, tmp_path: Path) -> None:
    """Early on the heaviest patch is background, in block 9 it is mostly foreground."""
    weights = str(shared / "data/weights/deit_tiny_patch16_224.safetensors")
    job = Job(
        "deit_tiny", weights=weights, data=str(shared / "data/ecssd"), bench="saliency", limit=100
    )
    analysis = run(job, results=tmp_path).record.analysis
    assert analysis is not None
    heaviest = [block["heaviest_on_foreground"] for block in analysis["blocks"]]
    assert analysis["base_rate"] == pytest.approx(0.35, abs=0.03)
    assert max(heaviest[:3]) < analysis["base_rate"]
    assert heaviest[8] == pytest.approx(0.78, abs=0.08)
