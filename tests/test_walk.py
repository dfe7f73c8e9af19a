"""``bench=walk``: against the float64 reference and the method, and through any kind of stop."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asap_reference
import numpy as np
import pytest
import tiny
import torch
from asap_reference import Options, run_block
from pictures import picture_folder
from safetensors import safe_open
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import Tensor, nn

import asap_eval
from asap_eval.bench.walk import analysis as walk_analysis
from asap_eval.bench.walk.observer import WalkObserver
from asap_eval.errors import BadValueError, RecordError, UnknownNameError
from asap_eval.hosts import install
from asap_eval.record import Job, RunRecord, read_record
from asap_eval.record.journal import Journal, Row
from asap_eval.runner import Outcome, run
from asap_eval.statistics import distribution, shares

SIZE, COUNT = 32, 6
FP32 = 1e-4
"""Relative: distances and flows after six fp32 blocks and products, against fp64."""

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "alpha": {"alpha": 0.9},
    "rollout": {"order": "rollout"},
    "patches": {"chain": "patches"},
}


def walks(model: nn.Module, images: Tensor, **options: Any) -> list[dict[str, Any]]:
    given = {"alpha": 0.5, "order": "walk", "chain": "full", **options}
    observer = WalkObserver(**given)
    with torch.inference_mode(), install(model, observer):
        model(images)
    assert observer.latest is not None
    return observer.latest.rows()


def reference(model: nn.Module, image: Tensor, **options: Any) -> Iterator[dict[str, Any]]:
    """Figures of one image, block by block, in fp64 from whole matrices."""
    o = Options(**options)
    prefix = model.num_prefix_tokens
    x = model.norm_pre(model._pos_embed(model.patch_embed(image[None].double())))[0]
    eye = torch.eye(len(x), dtype=torch.float64)
    chain, inner = eye, eye[prefix:, prefix:]
    sinks: dict[str, int] = {}
    mass = torch.ones(len(x) - (prefix if o.chain == "patches" else 0), dtype=torch.float64)
    for block in model.blocks:
        x, maps = run_block(block, x)
        a = maps.mean(0)
        chain = asap_reference.step(chain, a, o)
        moved, skip = a, prefix
        if o.chain == "patches":
            moved, skip = a[prefix:, prefix:], 0
            moved = moved / moved.sum(1, keepdim=True)
            inner = asap_reference.step(inner, moved, o)
        before, mass = mass, (inner if o.chain == "patches" else chain).sum(0)
        steps = {}
        for reading, sink in sinks.items():
            j = sink + skip
            rest = [i for i in range(len(moved)) if i != j]
            steps[reading] = {
                "before": before[j],
                "after": mass[j],
                "inflow": sum(before[i] * moved[i, j] for i in rest),
                "outflow": sum(before[j] * moved[j, i] for i in rest),
            }
        heaviest = int(mass[skip:].argmax())
        sinks = {"heaviest": heaviest}
        sink = heaviest
        if model.has_class_token:
            sink = sinks["cls"] = int(chain[0, prefix:].argmax())
        rows, anchor = chain[prefix:], chain[prefix + sink]
        weights = (chain.sum(0) / len(chain)).sqrt()
        others = [i for i in range(len(rows)) if i != sink]
        plain = [float((rows[i] - anchor).norm()) for i in others]
        weighted = [float(((rows[i] - anchor) / weights).norm()) for i in others]
        s = torch.linalg.svdvals(chain - chain.mean(0))
        yield {
            "peak": float(mass[skip:].max()),
            "peak_with_prefix": float(chain.sum(0).max()),
            "heaviest": heaviest,
            "sink": sink,
            "distance": sum(plain) / len(plain),
            "spearman": float(spearmanr(plain, weighted).statistic),
            "spread": math.sqrt(float((s**2).sum()) / len(chain)),
            "rank": float((s**2).sum() ** 2 / (s**4).sum()),
            "steps": steps,
        }


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_every_figure_is_the_references(options: dict[str, Any]) -> None:
    images = tiny.images(COUNT, SIZE)
    with torch.no_grad():
        for row, image in zip(walks(tiny.large(0), images, **options), images, strict=True):
            theirs = list(reference(tiny.large(0).double(), image, **options))
            for name in set(theirs[0]) - {"steps"}:
                expected = [block[name] for block in theirs]
                # 1e-3: ranks of distances that fp32 cannot tell apart.
                close = {"rel": 1e-3} if name in ("spearman", "rank") else {"rel": FP32}
                assert row[name] == pytest.approx(expected, **close), name
            for reading, figures in row["steps"].items():
                for name, values in figures.items():
                    expected = [float(block["steps"][reading][name]) for block in theirs[1:]]
                    assert values == pytest.approx(expected, rel=FP32, abs=1e-6), (reading, name)
            flows = {"inflow", "outflow"} & set(row["steps"]["cls"])
            assert len(flows) == (0 if options.get("order") == "rollout" else 2)


def test_without_a_class_token_the_heaviest_column_is_the_sink() -> None:
    model, images = tiny.HOSTS["avg_without_cls"](), tiny.images(2, 24)
    for row, image in zip(walks(model, images), images, strict=True):
        assert "sink" not in row
        assert set(row["steps"]) == {"heaviest"}
        with torch.no_grad():
            theirs = list(reference(model.double(), image))
        model.float()
        assert row["distance"] == pytest.approx([block["distance"] for block in theirs], rel=FP32)
        assert row["peak"] == row["peak_with_prefix"]


def test_an_image_does_not_see_its_batch() -> None:
    model, images = tiny.large(0), tiny.images(COUNT, SIZE)
    alone = [walks(model, image[None])[0] for image in images]
    for one, together in zip(alone, walks(model, images), strict=True):
        assert (one["heaviest"], one["sink"]) == (together["heaviest"], together["sink"])
        for name in ("peak", "distance", "spearman", "rank"):
            assert one[name] == pytest.approx(together[name], rel=FP32)


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_images_fire_where_the_method_fires(options: dict[str, Any]) -> None:
    """And the method's sink is the one whose distances are correlated."""
    model, images = tiny.large(0), tiny.images(12, SIZE)
    rows = walks(model, images, **options)
    seen = set()
    for tau in (1.6, 2.3, 2.5, 3.0):
        with torch.inference_mode(), asap_eval.reduce(model, "asap", tau=tau, **options) as trace:
            model(images)
        blocks = walk_analysis.firing(walk_analysis.table(rows, "peak"), tau)
        assert blocks.tolist() == trace.fired.tolist()
        seen |= set(blocks.tolist())
        sinks = trace.notes["sink"].tolist() if "sink" in trace.notes else []
        for row, block, sink in zip(rows, blocks, sinks, strict=False):
            assert block == 0 or row["sink"][block - 1] == sink
    assert len(seen) > 1


# Over images


def test_a_distribution_is_numpys_and_knows_what_is_missing() -> None:
    values = np.array([3.0, 1.0, np.nan, 2.0, 10.0])
    found = distribution(values)
    assert (found["n"], found["mean"]) == (4, 4.0)
    assert found["sd"] == pytest.approx(np.std([3, 1, 2, 10], ddof=1))
    assert found["q50"] == 2.5
    assert found["q95"] == pytest.approx(np.percentile([3, 1, 2, 10], 95))
    assert distribution(np.array([np.nan]))["mean"] is None


def test_a_share_of_all_images_still_has_a_width() -> None:
    found = shares("x", np.array([[True, False], [True, True]]))
    assert found["x"] == [1.0, 0.5]
    assert found["x_ci95"][0] == pytest.approx([0.1581, 1], abs=1e-4)  # 0.025 ** (1 / 2)


def image(peak: list[float], **columns: Any) -> Row:
    """A row of two blocks on a grid of 3 x 3."""
    blocks = len(peak)
    walk = {
        "peak": peak,
        "peak_with_prefix": [9.0] * blocks,
        "heaviest": [4] * blocks,
        "sink": [0] * blocks,
        "distance": [1.0] * blocks,
        "spearman": [0.5] * blocks,
        "spread": [1.0] * blocks,
        "rank": [2.0] * blocks,
        "steps": {
            "cls": {"before": [2.0], "after": [1.0], "inflow": [1.0], "outflow": [3.0]},
            "heaviest": {"before": [1.0], "after": [2.0], "inflow": [3.0], "outflow": [1.0]},
        },
    }
    return {"id": "i", "error": None, "walk": {**walk, **columns}}


def test_the_analysis_of_three_images_by_hand() -> None:
    rows = [
        image([2.0, 4.0], spearman=[0.1, 0.9], sink=[0, 4], distance=[2.0, 1.0]),
        image([3.5, 2.0], spearman=[0.7, 0.2], sink=[8, 4], distance=[1.0, 2.0]),
        image([1.0, 2.5], spearman=[None, 0.3], heaviest=[3, 4], distance=[2.0, 2.0]),
    ]
    found = walk_analysis.analyse(rows, (3, 3), [3.0, 9.0])
    low, high = found["at_firing"]
    assert (low["tau"], high["tau"]) == (3.0, 9.0)
    assert low["fired"] == {"n": 2, "never": 1, "mean": 1.5, "histogram": {"1": 1, "2": 1}}
    assert high["fired"] == {"n": 0, "never": 3, "mean": None, "histogram": {"1": 0, "2": 0}}
    assert (low["spearman"]["n"], low["spearman"]["mean"]) == (2, pytest.approx(0.8))
    assert high["spearman"]["n"] == 0
    assert [block["n"] for block in found["spearman"]] == [2, 3]
    assert found["sink_emergence"]["peak"][0]["mean"] == pytest.approx(6.5 / 3)
    b = found["appendix_b"]
    assert b["peak"]["falls"] == [pytest.approx(1 / 3)]
    assert (b["cls"]["falls"], b["heaviest"]["falls"]) == ([1.0], [0.0])
    assert b["cls"]["inflow_exceeds_outflow"] == [0.0]
    assert b["heaviest"]["inflow_over_outflow"][0]["mean"] == 3.0
    assert found["distances"]["shrinks"] == [pytest.approx(1 / 3)]
    border = found["border"]
    assert border["base_rate"] == pytest.approx(8 / 9)
    assert border["cls"] == [1.0, pytest.approx(1 / 3)]
    assert border["heaviest"] == [pytest.approx(1 / 3), 0.0]
    assert low["border"]["cls"] == 0.5  # block 2: centre; block 1: corner
    assert high["border"] == {}
    json.dumps(found, allow_nan=False)


# Whole runs


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("walk") / "pictures")


def job_of(pictures: Path, **changes: Any) -> Job:
    job = Job("test_vit", weights="random", data=str(pictures), batch_size=5, bench="walk")
    return dataclasses.replace(job, **changes)


def arrays_of(outcome: Outcome) -> dict[str, Tensor]:
    assert outcome.record.arrays is not None
    return load_file(outcome.path.with_name(outcome.record.arrays))


def same_numbers(record: RunRecord, other: RunRecord) -> None:
    assert record.analysis == other.analysis
    assert (record.key, record.status) == (other.key, "done")


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run that nobody stopped; one of its images cannot be read."""
    (pictures / "n01443537" / "003.png").write_bytes(b"no picture")
    return run(job_of(pictures), results=tmp_path_factory.mktemp("whole"))


def test_a_run_leaves_rows_analysis_and_arrays(whole: Outcome, pictures: Path) -> None:
    record = read_record(whole.path)
    assert record == whole.record
    assert (record.metrics, record.paired) == (None, None)
    assert record.analysis is not None
    assert (record.analysis["grid"], record.analysis["blocks"]) == ([10, 10], 6)
    assert record.analysis["sink_emergence"]["peak"][5]["n"] == 11
    assert record.job.bench_params["taus"] == [1.4, 1.7, 2.0, 2.5, 4.0, 5.0]
    assert [failure["id"] for failure in record.provenance.failures] == ["n01443537/003.png"]

    arrays = arrays_of(whole)
    tokens = arrays["mean"].shape[1]
    assert arrays["mean"].shape == (6, tokens, tokens)
    torch.testing.assert_close(arrays["mean"].sum(2), torch.ones(6, tokens))
    rows = Journal(whole.path.with_name(str(record.samples))).read()
    peaks = np.mean([row["walk"]["peak_with_prefix"] for row in rows if row["error"] is None], 0)
    # The heaviest column of the mean can only be lighter than the mean of the heaviest.
    assert bool((arrays["mean"].sum(1).amax(1).numpy() <= peaks + 1e-4).all())
    assert arrays["heaviest"].sum((1, 2)).tolist() == [11] * 6
    first = [row["walk"]["heaviest"][2] for row in rows if row["error"] is None]
    assert int(arrays["heaviest"][2].flatten()[first[0]]) == first.count(first[0])

    with safe_open(whole.path.with_name(str(record.arrays)), framework="pt") as file:
        notes = file.metadata()
    assert notes["samples"] == "12"
    assert notes["map.0"] == "n01440764/000.png"
    assert sum(name.startswith("map.") for name in notes) == 4
    from PIL import Image

    from asap_eval.models import load_model

    loaded = load_model("test_vit", weights="random")
    with Image.open(pictures / notes["map.0"]) as picture:
        pixels = loaded.transform(picture.convert("RGB"))[None]
    with torch.no_grad():
        chains = list(reference_chain(loaded.model.double(), pixels[0]))
    torch.testing.assert_close(
        arrays["map.0"].double(), torch.stack(chains), rtol=1e-3, atol=1e-6
    )  # kept in half precision


def reference_chain(model: nn.Module, image: Tensor) -> Iterator[Tensor]:
    x = model.norm_pre(model._pos_embed(model.patch_embed(image[None].double())))[0]
    chain = torch.eye(len(x), dtype=torch.float64)
    for block in model.blocks:
        x, maps = run_block(block, x)
        chain = asap_reference.step(chain, maps.mean(0), Options())
        yield chain


@pytest.mark.parametrize("before_journal", [True, False], ids=["sums first", "rows first"])
@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_stopped_run_ends_with_the_same_numbers(
    whole: Outcome,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
    before_journal: bool,
) -> None:
    """Stopped in batch ``stop``: after its sums were written, before or after its rows were."""
    real, seen = Journal.append, []

    def append(self: Journal, rows: list[Row]) -> None:
        seen.append(rows)
        if not before_journal:
            real(self, rows)
        if len(seen) == stop + 1:
            raise KeyboardInterrupt
        if before_journal:
            real(self, rows)

    monkeypatch.setattr(Journal, "append", append)
    with pytest.raises(KeyboardInterrupt):
        run(job_of(pictures), results=tmp_path)
    monkeypatch.undo()
    again = run(job_of(pictures), results=tmp_path)
    same_numbers(again.record, whole.record)
    for name, array in arrays_of(again).items():
        assert torch.equal(array, arrays_of(whole)[name]), name
    assert not list(tmp_path.glob("*.sums.*"))


def test_a_run_stopped_after_its_arrays_keeps_them(
    whole: Outcome, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asap_eval.bench.walk.bench import WalkBench

    real = WalkBench.finish

    def finish(self: WalkBench, *args: Any) -> str:
        real(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(WalkBench, "finish", finish)
    with pytest.raises(KeyboardInterrupt):
        run(job_of(pictures), results=tmp_path)
    monkeypatch.undo()
    again = run(job_of(pictures), results=tmp_path)
    same_numbers(again.record, whole.record)
    assert torch.equal(arrays_of(again)["mean"], arrays_of(whole)["mean"])


def test_lost_sums_are_said_and_force_makes_them_anew(
    whole: Outcome, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Journal.append

    def append(self: Journal, rows: list[Row]) -> None:
        real(self, rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", append)
    with pytest.raises(KeyboardInterrupt):
        run(job_of(pictures), results=tmp_path)
    monkeypatch.undo()
    (sums,) = tmp_path.glob("*.sums.safetensors")
    sums.unlink()
    with pytest.raises(RecordError, match="force=true"):
        run(job_of(pictures), results=tmp_path)
    same_numbers(run(job_of(pictures), results=tmp_path, force=True).record, whole.record)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "asap"}, "method=asap with bench=walk"),
        ({"method": "random", "k": 0.5}, "unpruned model's walk"),
        ({"speed": True}, "benchmarks/speed.py"),
        ({"bench_params": {"alpha": 0.0}}, "bench.alpha=0.0"),
        ({"bench_params": {"order": "back"}}, "walk.order"),
        ({"bench_params": {"taus": 3.0}}, "should be a list"),
        ({"bench_params": {"taus": ["low"]}}, "walk.taus='low'"),
        ({"bench_params": {"tau": -1.0}}, "positive"),
        ({"bench_params": {"maps": ["nobody.png"]}}, "nobody.png"),
    ],
)
def test_what_it_refuses_is_said_before_any_record(
    pictures: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises((BadValueError, UnknownNameError), match=says):
        run(job_of(pictures, **changes), results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_batch_without_a_readable_image_adds_nothing(
    whole: Outcome, pictures: Path, tmp_path: Path
) -> None:
    alone = run(job_of(pictures, batch_size=1), results=tmp_path)
    torch.testing.assert_close(arrays_of(alone)["mean"], arrays_of(whole)["mean"])
    assert torch.equal(arrays_of(alone)["sink"], arrays_of(whole)["sink"])


def test_named_maps_are_kept(pictures: Path, tmp_path: Path) -> None:
    named = ["n01484850/001.png", "n01440764/003.png"]
    outcome = run(job_of(pictures, bench_params={"maps": named}), results=tmp_path)
    with safe_open(outcome.path.with_name(str(outcome.record.arrays)), framework="pt") as file:
        notes = file.metadata()
        names = set(file.keys())
    assert [notes["map.0"], notes["map.1"]] == sorted(named)
    assert names == {"mean", "heaviest", "sink", "map.0", "map.1"}
