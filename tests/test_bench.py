"""The contract of a benchmark: one file, options that are checked, a record without accuracy."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pictures import picture_folder
from sheets import texts
from torch import Tensor

from asap_eval.bench.bench import Bench, benches, build_bench, register
from asap_eval.bench.image_bench import ImageBench
from asap_eval.bench.imagenet import ImageNet
from asap_eval.data.images import ImageBatch, ImageSet, open_images
from asap_eval.data.subset import Sample
from asap_eval.errors import BadValueError, DataError, UnknownNameError
from asap_eval.hosts import Geometry
from asap_eval.method import Reducer
from asap_eval.models import LoadedModel
from asap_eval.options import options
from asap_eval.paths import conf_dir
from asap_eval.record import Budget, Job, job_key, read_record
from asap_eval.record.journal import Row
from asap_eval.registry import BENCHES
from asap_eval.report.layouts.overview import overview
from asap_eval.runner import run
from asap_eval.runner.sources import _closure, entry_modules
from asap_eval.timing import speed
from asap_eval.trace import Trace


@dataclasses.dataclass
class Brightness(ImageBench):
    """Mean pixel of each image: a benchmark without accuracy."""

    scale: float = 1.0

    accuracy = False
    no_speed = "it measures pixels"

    def accepts(self, reducer: Reducer) -> None:
        if reducer.name == "mass":
            raise BadValueError("brightness has nothing to do with mass.")

    def open(
        self, data: str, loaded: LoadedModel, *, limit: int | None, sample: Sample
    ) -> ImageSet:
        return open_images(
            data, classes=loaded.classes, labels=loaded.labels, limit=limit, sample=sample
        )

    def measure(self, batch: ImageBatch, output: Tensor, trace: Trace) -> list[dict[str, Any]]:
        return [{"mean": self.scale * float(image.mean())} for image in batch.pixels]

    def unmeasured(self, label: int | None) -> dict[str, Any]:
        return {"mean": None}

    def analysis(self, read: list[Row], geometry: Geometry) -> dict[str, Any]:
        return {"mean": sum(row["mean"] for row in read) / len(read), "images": len(read)}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(BENCHES, "classes", BENCHES.all())
    register("brightness", "for this test")(Brightness)
    data = picture_folder(tmp_path / "data", each=2)
    return Job(
        "test_vit", weights="random", data=str(data), batch_size=4, bench="brightness",
        method="random", k=0.5,
    )  # fmt: skip


def test_a_benchmark_without_accuracy_is_one_class(job: Job, tmp_path: Path) -> None:
    bad = next(Path(job.data).rglob("001.png"))
    bad.write_bytes(b"no picture")
    outcome = run(job, results=tmp_path / "results")
    record = outcome.record
    assert read_record(outcome.path) == record
    assert (record.metrics, record.baseline, record.paired) == (None, None, None)
    assert record.analysis is not None
    assert record.analysis["images"] == 5
    assert record.job.bench_params == {"scale": 1.0}
    assert record.macs is not None
    assert record.macs.reduction_pct < 0
    # No unpruned model was run to compare with.
    assert len(list((tmp_path / "results").glob("*.json"))) == 1
    (table,) = overview([record])
    assert "scale=1.0" in table.title
    assert "6 (1 failed)" in texts(table)[0]

    doubled = dataclasses.replace(job, bench_params={"scale": 2})
    other = run(doubled, results=tmp_path / "results").record
    assert other.key != record.key
    assert other.analysis is not None
    assert other.analysis["mean"] == pytest.approx(2 * record.analysis["mean"])
    assert len(overview([record, other])) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"speed": True}, "it measures pixels"),
        ({"method": "mass"}, "nothing to do with mass"),
        ({"bench_params": {"scale": "big"}}, "brightness.scale='big'"),
        ({"bench_params": {"scael": 1.0}}, "Did you mean scale"),
        ({"bench": "brightnes", "bench_params": {}}, "Did you mean brightness"),
    ],
)
def test_what_a_benchmark_refuses_is_said_before_any_record(
    job: Job, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises((BadValueError, UnknownNameError), match=says):
        run(dataclasses.replace(job, **change), results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_speed_is_of_whole_readable_batches() -> None:
    def batch(*ids: str, failures: dict[int, str] | None = None) -> ImageBatch:
        lost = failures or {}
        pixels = torch.zeros(len(ids) - len(lost), 3, 2, 2)
        return ImageBatch(list(range(len(ids))), list(ids), [None] * len(ids), pixels, lost)

    bench, torn = ImageNet(), batch("c", "d", failures={1: "torn"})
    assert [full.ids for full in bench.full_batches([batch("a", "b"), torn], 2)] == [("a", "b")]
    with pytest.raises(DataError, match="batch of 2 readable images; each of the 2 images"):
        bench.full_batches([torn], 2)
    assert [bench.speed_samples(count, 8) for count in (7, 8, 20, 1000)] == [0, 8, 16, 32]


def test_every_benchmark_has_its_options_in_the_configuration() -> None:
    files = {path.stem: path for path in conf_dir().glob("bench/*.yaml")}
    assert set(files) == set(benches())
    for name, path in files.items():
        declared = {option: default for option, _, default in options(type(build_bench(name)))}
        assert OmegaConf.to_container(OmegaConf.load(path)) == declared


def test_the_contract_says_what_a_benchmark_gets() -> None:
    """Types that are erased let an author guess; the registry alone erases them."""
    for _, function in inspect.getmembers(Bench, inspect.isfunction):
        given = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
        assert not [name for name, hint in given.items() if "Any" in hint], function.__name__


@pytest.mark.parametrize("budget", [None, Budget("macs", -35)], ids=["plain", "budget"])
def test_a_jobs_sources_hold_no_other_benchmark(budget: Budget | None) -> None:
    files = {name: cls.__module__ for name, cls in benches().items()}
    for name, module in files.items():
        found = _closure(entry_modules(Job("deit_tiny", "random", bench=name, budget=budget)))
        assert {module} == set(found) & set(files.values())


def test_the_key_follows_the_options_of_the_benchmark() -> None:
    def key(**params: Any) -> str:
        job = Job("deit_tiny", bench_params=params)
        return job_key(
            job,
            weights_sha256="w",
            data_digest="d",
            content="c",
            searched=None,
            sources="s",
            versions={},
        )

    assert len({key(), key(scale=1.0), key(scale=2.0)}) == 3


@pytest.mark.parametrize("error", [ModuleNotFoundError, RuntimeError, AssertionError, Exception])
def test_a_clock_that_is_not_told_ends_no_run(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pynvml's errors (no permission, MIG) derive from `Exception` alone."""

    class NVMLError(error):  # type: ignore[valid-type, misc]
        pass

    def failing(_: Any) -> int:
        raise NVMLError("Insufficient Permissions")

    monkeypatch.setattr(torch.cuda, "clock_rate", failing)
    assert speed._clock(torch.device("cuda")) is None
