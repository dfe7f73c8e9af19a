"""Videos through an encoder and a head: the rows, training that resumes, whole runs."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import clips
import pytest
import records
import tiny
import torch
from safetensors.torch import load_file, save_file
from sheets import heads, texts
from torch import Tensor

from asap_eval.bench.bench import build_bench
from asap_eval.bench.video.kinetics import Kinetics
from asap_eval.cli import main
from asap_eval.data.videos.decode import read_frames
from asap_eval.errors import AsapEvalError, BadValueError, DataError, WeightsError
from asap_eval.experiment import load as load_experiment
from asap_eval.hosts import geometry_of, install
from asap_eval.method import build
from asap_eval.models import LoadedModel, load_model
from asap_eval.models.encoder import encoder_of, features
from asap_eval.models.video_head import Head, accuracy, load_head, save_head
from asap_eval.record import Budget, Job, Macs, RunRecord, read_record
from asap_eval.record.journal import Journal
from asap_eval.report.experiment.match import matched
from asap_eval.report.experiment.tables import experiment_tables
from asap_eval.report.layouts.overview import overview
from asap_eval.runner import Outcome, run
from asap_eval.train.head import features as cache
from asap_eval.train.head import run as training
from asap_eval.train.head.fit import Recipe
from asap_eval.work.macs import unpruned_macs

CLASSES = clips.CLASSES
TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 24, "patch_size": 4, "projection_dim": 12,
}  # fmt: skip


def digits() -> LoadedModel:
    return load_model("digits_vit")


def clip() -> LoadedModel:
    """A tiny Hugging Face CLIP tower that ends in its projection."""
    from asap_eval.models import ModelSpec

    spec = ModelSpec("clip", hf="none/none", labels="none", kwargs=TINY)
    loaded = load_model(spec, weights="random")
    tiny.shake(loaded.model, 3, 1.7)
    return loaded


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moving shapes with a split each; one of val cannot be read, one is a single frame."""
    root = tmp_path_factory.mktemp("kinetics")
    clips.folder(root / "train", 4)
    clips.folder(root / "val", 2, seed=500)
    (root / "val/disc/000.mp4").write_bytes(b"no video")
    clips.write(root / "val/bar/000.mp4", clips.moving("bar", 7, count=1))
    return root


def job_of(data: Path, **changes: Any) -> Job:
    job = Job("digits_vit", data=str(data), batch_size=16, bench="kinetics")
    return dataclasses.replace(job, **changes)


RECIPE = Recipe(epochs=4, lr=0.01, batch_size=16)


@pytest.fixture(scope="session")
def head(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = job_of(data, bench_params={"frames": 4})
    return training.train(job, RECIPE, results=tmp_path_factory.mktemp("trained"))


def evaluation(data: Path, head: Path, **changes: Any) -> Job:
    return job_of(data, bench_params={"frames": 4, "head": str(head)}, **changes)


def rows_of(outcome: Outcome) -> list[dict[str, Any]]:
    return Journal(outcome.path.with_name(str(outcome.record.samples))).read()


# Encoders


def test_pooled_features_are_what_the_head_would_read() -> None:
    loaded, x = digits(), tiny.images(3, size=80)
    before = loaded.model(x)
    encoder = encoder_of(loaded, "pooled").model
    expected = loaded.model.forward_head(loaded.model.forward_features(x), pre_logits=True)
    assert torch.equal(encoder(x), expected)
    assert torch.equal(loaded.model(x), before)
    work = unpruned_macs(geometry_of(loaded.model)) - unpruned_macs(geometry_of(encoder))
    assert work == loaded.model.head.weight.numel()
    with install(encoder, build("random", k=0.5)) as trace:
        reduced = encoder(x)
    assert trace.lengths[-1].tolist() == [52, 52, 52]  # class token, 50 patches, the pooled rest
    assert not torch.allclose(reduced, expected)
    assert torch.equal(encoder(x), expected)


def test_clip_has_both_features() -> None:
    loaded, x = clip(), tiny.images(3, size=24)
    pooled, projected = (encoder_of(loaded, kind).model(x) for kind in ("pooled", "projected"))
    assert (pooled.shape, projected.shape) == ((3, 32), (3, 12))
    torch.testing.assert_close(loaded.model.head(pooled), projected)


def test_models_without_one_feature_are_refused() -> None:
    with pytest.raises(BadValueError, match="ends in a projection"):
        encoder_of(digits(), "projected")
    with pytest.raises(BadValueError, match="aux_head beside its head"):
        encoder_of(load_model("lvvit_s", weights="random"), "pooled")


@pytest.mark.parametrize(("name", "gmacs"), [("336", 190.96), ("224", 81.01)])
def test_work_of_the_papers_encoder(name: str, gmacs: float) -> None:
    """At full shape, without weights in memory."""
    import timm

    from asap_eval.models import model_specs

    with torch.device("meta"):
        model = timm.create_model(str(model_specs()[f"clip_vit_l14_{name}"].timm))
    assert round(unpruned_macs(geometry_of(model)) / 1e9, 2) == gmacs


# Rows


def by_hand(data: Path, name: str, loaded: LoadedModel, head: Head) -> tuple[Tensor, Tensor]:
    """Mean features ``[D]`` and scores ``[C]`` of a video, frame by frame."""
    frames = read_frames(data / name, [0.125, 0.375, 0.625, 0.875])
    model = encoder_of(loaded, "pooled").model
    with torch.inference_mode():
        each = [model(loaded.transform(frame.image)[None])[0] for frame in frames]
    mean = torch.stack(each).mean(0)
    return mean, (mean @ head.weight.T + head.bias).softmax(0)


def evaluated(
    data: Path, head: Path, method: str, batch_size: int, loaded: LoadedModel, **params: Any
) -> list[dict[str, Any]]:
    sampling = {name: params.pop(name) for name in ("clips", "views") if name in params}
    bench = build_bench("kinetics", head=str(head), frames=4, **sampling)
    adapted = bench.adapted(loaded)
    bench.check(adapted)
    videos = bench.open(str(data), adapted, limit=None, sample="first")
    batches = bench.batches(adapted, videos, batch_size=batch_size)
    found = bench.evaluate(adapted, build(method, **params), batches, seed=0)
    return [row for rows in found for row in rows]


def test_a_row_says_what_its_frames_say(data: Path, head: Path) -> None:
    loaded, trained = digits(), load_head(head)
    rows = evaluated(data, head, "none", 16, loaded)
    assert len(rows) == 12
    right = 0
    for row in rows:
        if row["id"] == "val/disc/000.mp4":
            assert "Invalid data" in row["error"]
            assert (row["correct"], row["top5"], row["prediction"]) == (False, False, None)
            continue
        _, scores = by_hand(data, row["id"], loaded, trained)
        name = row["id"].split("/")[1].replace("_", " ")
        assert trained.classes is not None
        assert row["label"] == trained.classes.index(name)
        assert row["prediction"] == int(scores.argmax())
        assert row["top5"] == (row["label"] in scores.topk(5).indices)
        assert row["tokens"] == [100] * 4
        assert row["distinct"] == (1 if row["id"] == "val/bar/000.mp4" else 4)
        right += row["correct"]
    assert 0 < right < 12


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("asap", {"k": 3.0}),
        ("random", {"k": 0.4, "layer": 2}),
        ("tome", {"r": 6.0}),
        ("asap", {"k": 3.0, "clips": 2, "views": 3}),
    ],
)
def test_rows_do_not_depend_on_the_batch(
    data: Path, head: Path, method: str, params: dict[str, Any]
) -> None:
    """Passes of 5 frames cut through videos; 64 hold many videos."""
    loaded = digits()
    one, cut, many = (evaluated(data, head, method, size, loaded, **params) for size in (4, 5, 64))
    assert one == cut == many
    frames = 4 * params.get("clips", 1) * params.get("views", 1)
    assert {len(row["tokens"]) for row in one if row["error"] is None} == {frames}
    assert len({tuple(row["tokens"]) for row in one if row["error"] is None}) > (method == "asap")


def test_figures_of_hand_made_rows(head: Path) -> None:
    geometry = geometry_of(encoder_of(digits(), "pooled").model)
    whole = unpruned_macs(geometry)

    def row(share: float, tokens: list[int], distinct: int, correct: bool) -> dict[str, Any]:
        return {
            "correct": correct, "top5": True, "error": None, "distinct": distinct,
            "tokens": tokens, "layer_mean": tokens, "fired": [2, 0],
            "model_macs": share * whole, "attention_macs": 0.1 * share * whole,
            "method_macs": 0.1 * whole,
        }  # fmt: skip

    rows = [row(0.5, [10, 40], 2, True), row(0.7, [20, 60], 1, False)]
    lost = {"correct": False, "top5": False, "error": "broken"}
    bench = Kinetics(head=str(head), frames=2, clips=3)
    found = bench.summarise([*rows, lost], geometry, "full")
    assert found.metrics is not None
    assert (found.metrics.top1, found.metrics.n, found.metrics.failed) == (100 / 3, 3, 1)
    assert found.metrics.top5 == pytest.approx(200 / 3)
    assert found.macs.reduction_model_pct == pytest.approx(-40)
    assert found.macs.reduction_pct == pytest.approx(-30)
    assert found.macs.paper is None  # 0.1 GMACs and less: one decimal says nothing
    assert (found.tokens.kept_min, found.tokens.kept_max, found.tokens.kept_mean) == (10, 60, 32.5)
    assert (found.fired.histogram["2"], found.fired.never) == (2, 2)
    assert found.analysis is not None
    per_video = found.analysis["macs_per_video_g"]
    own = 3 * load_head(head).weight.numel() / 1e9
    assert per_video["baseline"] == pytest.approx(6 * whole / 1e9 + own)
    assert per_video["mean"] == pytest.approx(6 * 0.6 * whole / 1e9 + own)
    assert per_video["method"] == pytest.approx(6 * 0.1 * whole / 1e9)
    assert found.analysis["short_videos"] == 2
    with pytest.raises(DataError, match="None of the 1 videos"):
        bench.summarise([lost], geometry, "full")


# Heads and their training


def test_a_head_learns_and_says_where_it_comes_from(data: Path, head: Path) -> None:
    trained = load_head(head)
    assert trained.classes == sorted(CLASSES)
    assert trained.weight.shape == (6, 64)
    about = trained.about
    assert about["backbone"] == digits().weights.sha256
    assert about["sampling"] == {"frames": 4, "clips": 1, "views": 1}
    assert about["recipe"]["epochs"] == len(about["history"]) == 4
    assert about["history"][-1]["loss"] < about["history"][0]["loss"]
    assert about["data"]["val"]["failures"] == 1
    assert (about["data"]["train"]["n"], about["data"]["val"]["n"]) == (24, 12)


def test_the_cache_holds_means_over_frames(data: Path, head: Path) -> None:
    files = head.parents[1].glob("features/*/*.safetensors")
    shards = [load_file(shard)["features"] for shard in files]
    (val,) = [values for values in shards if len(values) == 12]
    names = sorted(path.relative_to(data).as_posix() for path in data.glob("val/*/*"))
    loaded, trained = digits(), load_head(head)
    for name, values in zip(names, val, strict=True):
        if name != "val/disc/000.mp4":
            mean, _ = by_hand(data, name, loaded, trained)
            torch.testing.assert_close(values[0], mean)


class Stop(BaseException):
    """As an interrupt: nothing catches it."""


def test_killed_while_caching_and_while_training_it_ends_in_the_same_bits(
    data: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(data, bench_params={"frames": 4})
    monkeypatch.setattr(cache, "SECONDS", 0.0)  # a shard for every batch
    encode, counted = Kinetics.encode, []

    def stopping(self: Kinetics, *args: Any) -> Iterator[Any]:
        for number, batch in enumerate(encode(self, *args)):
            if number == 2 and len(counted) < 2:
                counted.append(0)
                raise Stop
            yield batch

    monkeypatch.setattr(Kinetics, "encode", stopping)
    for stops in (1, 2):
        with pytest.raises(Stop):
            training.train(job, RECIPE, results=tmp_path)
        assert len(list(tmp_path.glob("features/*/*.safetensors"))) == 2 * stops
    epochs = []

    def interrupted(*args: Any, **options: Any) -> Any:
        progress = options.pop("progress")

        def stop(entry: dict[str, Any]) -> None:
            progress(entry)
            epochs.append(entry["epoch"])
            if len(epochs) in (1, 3):
                raise Stop

        return whole(*args, progress=stop, **options)

    whole = training.train_head
    monkeypatch.setattr(training, "train_head", interrupted)
    for _ in range(2):
        with pytest.raises(Stop):
            training.train(job, RECIPE, results=tmp_path)
    assert not list(tmp_path.glob("heads/[!.]*.safetensors"))
    found = load_head(training.train(job, RECIPE, results=tmp_path))
    assert epochs == [1, 2, 3, 4]  # none was run twice
    whole_run = load_head(head)
    assert torch.equal(found.weight, whole_run.weight)
    assert torch.equal(found.bias, whole_run.bias)
    assert found.about["history"] == whole_run.about["history"]
    assert [path.name for path in tmp_path.glob("heads/[!.]*.safetensors")] == [head.name]
    assert not list(tmp_path.glob("heads/.*.safetensors"))

    monkeypatch.undo()
    other = load_head(training.train(dataclasses.replace(job, seed=1), RECIPE, results=tmp_path))
    assert not torch.equal(other.weight, found.weight)


def test_a_finished_head_is_handed_back_and_force_trains_again(
    data: Path, head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(data, bench_params={"frames": 4})
    written = head.stat().st_mtime_ns
    assert training.train(job, RECIPE, results=head.parents[1]) == head
    assert head.stat().st_mtime_ns == written
    monkeypatch.setattr(Kinetics, "encode", None)  # features are there
    before = load_head(head)
    assert training.train(job, RECIPE, results=head.parents[1], force=True) == head
    assert head.stat().st_mtime_ns > written
    assert torch.equal(load_head(head).weight, before.weight)


def test_standardised_features_are_folded_into_the_head(data: Path, head: Path) -> None:
    """Without it another head comes out; with it the head still reads features as they are."""
    recipe = dataclasses.replace(RECIPE, standardise=False)
    job = job_of(data, bench_params={"frames": 4})
    plain = load_head(training.train(job, recipe, results=head.parents[1]))
    assert not torch.allclose(plain.weight, load_head(head).weight, atol=1e-3)
    last = load_head(head).about["history"][-1]["top1"]
    rows = evaluated(data, head, "none", 16, digits())
    assert 100 * sum(row["correct"] for row in rows) / 12 == pytest.approx(last)


def test_accuracy_counts_what_failed() -> None:
    scores = torch.eye(6)[[0, 1, 2, 5]]
    assert accuracy(scores, [0, 1, 2, 4], {1: "broken"})[0] == 50
    assert accuracy(scores[:, :4], [0, 1, 2, 3], {}) == (75, None)
    ranks = torch.arange(6.0).repeat(4, 1)  # class 0 is the sixth
    assert accuracy(ranks, [5, 1, 0, 2], {3: "broken"}) == (25, 50)


def test_a_damaged_shard_is_said(data: Path, head: Path, tmp_path: Path) -> None:
    shutil.copytree(head.parents[1] / "features", tmp_path / "features")
    for shard in tmp_path.glob("features/*/*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(DataError, match="damaged"):
        training.train(job_of(data, bench_params={"frames": 4}), RECIPE, results=tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "random"}, "no method"),
        ({"limit": 3}, "no limit"),
        ({"bench": "imagenet"}, "not for bench=imagenet"),
        ({"bench_params": {"head": "x"}}, "no bench.head"),
        ({"bench_params": {"views": 2}}, "views=2"),
        ({"data": ""}, "data is missing"),
    ],
)
def test_what_training_refuses(
    data: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    job = dataclasses.replace(job_of(data), **changes)
    with pytest.raises(BadValueError, match=says):
        training.train(job, RECIPE, results=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_training_needs_both_splits_and_equal_classes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train split"):
        training.train(job_of(data / "val"), RECIPE, results=tmp_path / "r")
    for split, kind in (("train", "disc"), ("val", "bar")):
        shutil.copytree(data / split / kind, tmp_path / split / kind)
    with pytest.raises(DataError, match="1 classes that train has not, for instance bar"):
        training.train(job_of(tmp_path), RECIPE, results=tmp_path / "r")


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"lr": 0.0}, {"weight_decay": -1.0}])
def test_recipes_that_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadValueError, match=next(iter(bad))):
        Recipe(**bad)  # type: ignore[arg-type]


# Which head fits


def _head(path: Path, width: int = 64, about: dict[str, Any] | None = None) -> Path:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(6, width, generator=g)
    save_head(Head(weight, torch.zeros(6), sorted(CLASSES), about or {}), path)
    return path


def test_heads_that_do_not_fit(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"width": 12}, "reads 12 features, and digits_vit has 64"),
        ({"about": {"feature": "projected"}}, "trained with bench.feature=projected"),
        ({"about": {"backbone": "x", "backbone_name": "others"}}, r"other weights \(others\)"),
    ]
    for options, says in cases:
        with pytest.raises(BadValueError, match=says):
            run(evaluation(data, _head(path, **options)), results=tmp_path / "r")
    with pytest.raises(BadValueError, match=r"needs bench\.head"):
        run(job_of(data), results=tmp_path / "r")
    with pytest.raises(WeightsError, match="does not exist"):
        run(evaluation(data, tmp_path / "none"), results=tmp_path / "r")
    whole = {"weight": torch.zeros(3, 64), "bias": torch.zeros(3)}
    for tensors in ({"weight": torch.zeros(3)}, {**whole, "norm.weight": torch.ones(64)}):
        save_file(tensors, path)
        with pytest.raises(WeightsError, match="a head is weight"):
            run(evaluation(data, path), results=tmp_path / "r")
    path.write_bytes(b"junk")
    with pytest.raises(WeightsError, match="not a whole"):
        run(evaluation(data, path), results=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_head_from_elsewhere_takes_the_classes_of_the_data(data: Path, tmp_path: Path) -> None:
    trained = load_head(_head(tmp_path / "named.safetensors"))
    plain = tmp_path / "plain.safetensors"
    save_file({"weight": trained.weight, "bias": trained.bias}, plain)
    named = evaluated(data, tmp_path / "named.safetensors", "none", 16, digits())
    assert evaluated(data, plain, "none", 16, digits()) == named
    save_file({"weight": torch.zeros(7, 64), "bias": torch.zeros(7)}, plain)
    with pytest.raises(DataError, match="6 classes"):
        evaluated(data, plain, "none", 16, digits())


# Whole runs


def test_a_run_is_paired_resumed_and_keyed_by_its_head(
    data: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = evaluation(data, head, method="asap", k=3.0)
    whole = run(job, results=tmp_path / "whole").record
    assert read_record(tmp_path / "whole" / f"{whole.stem}.json") == whole
    assert whole.metrics is not None
    assert (whole.metrics.n, whole.metrics.failed) == (12, 1)
    assert whole.baseline is not None
    assert whole.baseline.top1 == pytest.approx(load_head(head).about["history"][-1]["top1"])
    assert whole.paired is not None
    assert whole.paired.delta_top1 == pytest.approx(whole.metrics.top1 - whole.baseline.top1)
    assert [f["id"] for f in whole.provenance.failures] == ["val/disc/000.mp4"]
    assert whole.analysis is not None
    assert whole.analysis["short_videos"] == 1
    assert whole.analysis["head"]["backbone"] == digits().weights.sha256
    (table,) = overview([whole])
    cells = dict(zip(heads(table), texts(table)[0], strict=True))
    assert cells["n"] == "12 (1 failed)"
    assert "top-5 %" in cells
    assert "GMACs per video: model + own" in cells

    evaluate, stopped = Kinetics.evaluate, []

    def stopping(self: Kinetics, *args: Any, **options: Any) -> Iterator[Any]:
        for number, rows in enumerate(evaluate(self, *args, **options)):
            if number == 2 and not stopped:
                stopped.append(0)
                raise Stop
            yield rows

    monkeypatch.setattr(Kinetics, "evaluate", stopping)
    with pytest.raises(Stop):
        run(job, results=tmp_path / "cut")
    again = run(job, results=tmp_path / "cut")
    assert rows_of(again) == rows_of(run(job, results=tmp_path / "whole"))
    assert again.record.key == whole.key

    other = _head(tmp_path / "other.safetensors")
    moved = shutil.copy(head, tmp_path / "moved.safetensors")
    keys = [
        run(evaluation(data, Path(h)), results=tmp_path / "k").record.key for h in (moved, other)
    ]
    assert keys == [whole.baseline.key, keys[1]]
    assert keys[1] != keys[0]


def test_speed_with_and_without_decoding(
    data: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asap_eval.runner.conclude.SPEED_ROUNDS", 2)
    job = evaluation(data, head, method="random", k=0.5, speed=True, batch_size=8)
    record = run(job, results=tmp_path).record
    speed = record.speed
    assert speed is not None
    assert speed["backend"]["batch_size"] == 8
    for name in ("fused", "matched", "method"):
        rates = speed["videos_s"][name]
        assert rates["encoding"] == pytest.approx(speed[f"{name}_img_s"] / 4)
        both = 1 / rates["encoding"] + 4 / speed["decode_frames_s"]
        assert 1 / rates["decoding"] == pytest.approx(both)
    (table,) = overview([record])
    assert any(head.startswith("frames/s decoded") for head in heads(table))
    with pytest.raises(BadValueError, match="lower batch_size"):
        run(dataclasses.replace(job, batch_size=400), results=tmp_path)


def test_commands_from_training_to_a_table(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["model=digits_vit", f"data={data}", f"results={tmp_path}", "batch_size=32"]
    kinetics = [*common, "bench=kinetics", "bench.frames=2"]
    train = [*kinetics, "stage=train", "train.epochs=2"]
    assert main([*train, "plan=true"]) == 0
    plan = capsys.readouterr().out
    assert "24 videos, 24 of them to encode: 2 frames each" in plan
    assert not list(tmp_path.iterdir())
    assert main(train) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2].startswith("6 classes, 2 epochs: top-1 ")
    assert out[-2].endswith("of 12 val videos (1 failed)")
    head = out[-1]
    assert Path(head).is_file()
    assert main([*train, "plan=true"]) == 0
    assert "0 of them to encode" in capsys.readouterr().out

    table3 = [*common, "experiment=table3", f"bench.head={head}", "bench.frames=2"]
    assert main([*table3, "method=asap", "budget.samples=2"]) == 0
    written = [read_record(Path(line)) for line in _paths(capsys)]
    assert [(r.job.method, r.job.params["tau"]) for r in written] == [
        ("asap", 1.4), ("asap", 1.7), ("asap", 1.4), ("asap", 1.7)
    ]  # fmt: skip
    for record in written:
        assert _reached(record)
    for bad, says in (
        (["stage=trian"], "Unknown value of stage 'trian'. Did you mean train"),
        (["stage=train", "train.epochs=two"], "train.epochs"),
        (["stage=train", "train.epoch=2"], "train.epochs"),
        (["stage=train", "method=random"], "no method"),
        (["stage=train", "experiment=table3"], "trains one head"),
    ):
        assert main([*kinetics, *bad]) == 2
        assert says in capsys.readouterr().err


def table3_record(method: str, **changes: Any) -> RunRecord:
    """As a run of a row of table3 leaves it, the head being the command line's."""
    made = records.make(method, **changes)
    params = {"head": "h.safetensors", "feature": "pooled", "frames": 8, "clips": 1, "views": 1}
    job = dataclasses.replace(
        made.job,
        model="clip_vit_l14_336",
        bench="kinetics",
        bench_params={**params, "videos": None},
    )
    videos = {
        name: {"encoding": rate, "decoding": rate / 2}
        for name, rate in (("fused", 2.0), ("matched", 1.5), ("method", 3.0))
    }
    paper = Macs(174.6, 115.1, 0.5, -33.8, -34.1, "paper")
    return dataclasses.replace(
        made,
        job=job,
        macs=Macs(190.96, 125.0, 0.5, -34.0, -34.5, "full", paper),
        speed={
            "fused_img_s": 16.0, "matched_img_s": 12.0, "method_img_s": 24.0,
            "videos_s": videos, "decode_frames_s": 40.0,
        },
        analysis={"macs_per_video_g": {"baseline": 1528.0, "mean": 1000.5, "method": 4.0}},
    )  # fmt: skip


def test_table3_from_records_has_published_figures_both_counts_and_all_rates() -> None:
    experiment = load_experiment("table3")
    held = [
        table3_record("none", paired=None),
        table3_record(
            "tome", budget=Budget("macs", -34.09), params={"inflection": None, "proportional": True}
        ),
    ]
    found = matched(experiment, held)
    (table,) = experiment_tables(experiment, found, held)
    cells = {row[1]: dict(zip(heads(table), row, strict=True)) for row in texts(table)}
    tome = cells["tome"]
    assert tome["row of the paper"] == "ToMe"
    assert tome["published Δ"] == "-2.60 (80.78 → 78.18)"
    assert tome["MACs %: all (model)"] == "-34.0 (-34.5)"
    assert tome["MACs % as the paper counts"] == "-33.80 (-34.10)"
    assert tome["published MACs"] == "-34.09 %"
    assert tome["published throughput"] == "+20.00 %"
    assert tome["GMACs per video: model + own"] == "1000.50 + 4.00"
    contenders = "fused / matched / method"
    assert tome[f"frames/s encoded: {contenders}"] == "16.0 / 12.0 / 24.0"
    assert tome[f"videos/s encoded: {contenders}"] == "2.00 / 1.50 / 3.00"
    assert tome[f"videos/s decoded and encoded: {contenders}"] == "1.00 / 0.75 / 1.50"
    assert tome["frames/s decoded"] == "40.0"
    assert cells["ppt"]["verdict"].startswith("not run")
    other = dataclasses.replace(held[1], job=dataclasses.replace(
        held[1].job, bench_params={**held[1].job.bench_params, "frames": 4}
    ))  # fmt: skip
    assert not [f for f in matched(experiment, [other]) if f.record]


def _paths(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.endswith(".json")]


def _reached(record: RunRecord) -> bool:
    assert record.macs is not None
    assert record.job.budget is not None
    return abs(record.macs.reduction_pct - record.job.budget.target) < 12  # of two videos


def test_a_clip_tower_is_an_encoder_too(data: Path, tmp_path: Path) -> None:
    """Through the host of Hugging Face, with the projected feature."""
    params: dict[str, Any] = {"frames": 2, "feature": "projected"}
    model = {"hf": "none/none", "labels": "none", "kwargs": TINY}
    job = job_of(data, bench_params=params, model="clip", model_params=model, weights="random")
    path = training.train(job, RECIPE, results=tmp_path)
    assert load_head(path).weight.shape == (6, 12)
    pruned = dataclasses.replace(
        job, bench_params={**params, "head": str(path)}, method="tome", k=4.0
    )
    record = run(pruned, results=tmp_path).record
    assert record.tokens is not None
    assert record.tokens.kept_max == 24
    assert not record.provenance.weights["trained"]


def test_features_that_overflow_are_said() -> None:
    model = encoder_of(digits(), "pooled").model
    with pytest.raises(AsapEvalError, match="features of b are not finite"):
        features(
            model,
            torch.stack([torch.zeros(3, 80, 80), torch.full((3, 80, 80), torch.inf)]),
            ["a", "b"],
        )


def test_features_are_shared_out_between_processes(tmp_path: Path) -> None:
    """Two threads stand for two processes: locks of files tell them apart as well."""
    total, ends, barrier = 6, range(2, 7, 2), threading.Barrier(2, timeout=30)
    encoded: dict[str, list[int]] = {"one": [], "other": []}

    def encoding(name: str) -> Callable[[int, int], Iterator[Any]]:
        def encode(start: int, stop: int) -> Iterator[Any]:
            if not encoded[name]:
                barrier.wait()  # both hold a piece
            encoded[name].append(start)
            for at in range(start, stop, 2):
                failed = {1: "cannot be read"} if at == 2 else {}
                yield torch.full((2, 1, 3), float(at)), failed

        return encode

    def filled(name: str) -> tuple[cache.Features, int]:
        seen: list[int] = []
        folder = tmp_path / "features"
        found = cache.cached_features(folder, ends, total, encoding(name), {}, seen.append)
        return found, sum(seen)

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(cache, "PIECE", 2)
        patched.setattr(cache, "PAUSE", 0.01)
        found = list(pool.map(filled, encoded))
    assert sorted(encoded["one"] + encoded["other"]) == [0, 2, 4]
    assert all(encoded.values())
    for whole, seen in found:
        assert whole.values[:, 0, 0].tolist() == [0, 0, 2, 2, 4, 4]
        assert whole.failures == {3: "cannot be read"}
        assert seen == total


def test_shards_of_another_cut_are_taken_over(tmp_path: Path) -> None:
    def encode(start: int, stop: int) -> Iterator[Any]:
        asked.append((start, stop))
        for at in range(start, stop):
            yield torch.full((1, 1, 1), float(at)), {}

    for size, wanted in ((3, [(0, 3), (3, 6), (6, 7)]), (4, [])):
        asked: list[tuple[int, int]] = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(cache, "PIECE", size)
            found = cache.cached_features(tmp_path, range(1, 8), 7, encode, {}, lambda _: None)
        assert asked == wanted
        assert found.values.flatten().tolist() == list(range(7))
    (tmp_path / "00000003.safetensors").unlink()
    asked = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cache, "PIECE", 4)
        found = cache.cached_features(tmp_path, range(1, 8), 7, encode, {}, lambda _: None)
    assert asked == [(3, 4), (4, 7)]
    assert found.values.flatten().tolist() == list(range(7))
    assert cache.count_cached(tmp_path) >= 7
