"""What fails for every sample is a fault of the set-up: it is said at once, and nothing is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import clips
import pytest
from pictures import picture_folder

from asap_eval.bench.first_samples import ENOUGH, FirstSamples
from asap_eval.bench.language import answers as answering
from asap_eval.bench.language import rows as vlm_rows
from asap_eval.data.images import ImageSet
from asap_eval.data.questions.pictures import Pictures
from asap_eval.data.videos.store import VideoStore
from asap_eval.errors import SetUpError
from asap_eval.record import Budget, Job, read_records
from asap_eval.runner import run
from asap_eval.train.head import run as head
from asap_eval.train.head.fit import Recipe

MANY = 5 * ENOUGH


def counted(patch: pytest.MonkeyPatch, cls: type, name: str) -> list[int]:
    """Samples that were read, by a method of a class that takes their place first."""
    found: list[int] = []
    method = getattr(cls, name)

    def counting(self: Any, place: int, *rest: Any) -> Any:
        found.append(place)
        return method(self, place, *rest)

    patch.setattr(cls, name, counting)
    return found


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Pictures of which none can be read, for one reason."""
    data = picture_folder(tmp_path / "data", each=-(-MANY // 3))
    for path in data.rglob("*.png"):
        path.write_text("version https://git-lfs.github.com/spec/v1")
    return data


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_a_run_stops_after_the_first_samples(
    broken: Path, tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counted(monkeypatch, ImageSet, "load")
    job = Job("test_vit", weights="random", data=str(broken), batch_size=batch_size)
    why = r"alike \(<sample> cannot be read: it is not an image that Pillow can decode\)"
    with pytest.raises(SetUpError, match=why):
        run(job, results=tmp_path / "out")
    assert len(read) == max(batch_size, -(-ENOUGH // batch_size) * batch_size)
    ((_, record),) = read_records(tmp_path / "out")[0]
    assert record.status == "failed"
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_so_does_the_search_for_a_knob(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in sorted(broken.rglob("*.png"))[:1]:
        good = picture_folder(tmp_path / "good", each=1)
        path.write_bytes(next(good.rglob("*.png")).read_bytes())
    budget = Budget("macs", -20, 2 * ENOUGH)
    job = Job("test_vit", "random", str(broken), "random", budget=budget, limit=1, batch_size=4)
    with pytest.raises(SetUpError, match=f"first {ENOUGH} samples"):
        run(job, results=tmp_path / "out")


def asked(data: Path, **params: Any) -> Job:
    bench = {"tasks": ["gqa", "pope"], "new_tokens": 2, **params}
    return Job("llava_tiny", data=str(data), bench="vlm", bench_params=bench, batch_size=4)


def test_a_model_that_fails_on_every_question_is_asked_no_further(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(args[5]))
        raise AttributeError("no attribute 'mm_encoder_outputs'")

    with monkeypatch.context() as patched:
        patched.setattr(vlm_rows, "answers", failing)
        with pytest.raises(SetUpError, match="mm_encoder_outputs"):
            run(asked(questions), results=tmp_path)
    assert sum(calls) <= 2 * ENOUGH  # each batch together, and its questions alone
    assert vlm_rows.answers is answering.answers
    record = run(asked(questions), results=tmp_path).record
    assert record.provenance.failures == []


def test_a_warm_up_does_not_look_for_a_usable_picture_for_ever(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counted(monkeypatch, Pictures, "picture")
    params = {"question": "What is it?", "warmup": 2}
    job = Job("llava_tiny", data=str(broken), bench="latency", bench_params=params, batch_size=4)
    with pytest.raises(SetUpError, match="not an image"):
        run(job, results=tmp_path / "out")
    assert len(read) == ENOUGH


def test_features_of_videos_that_all_fail_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    for split in ("train", "val"):
        clips.folder(data / split, 1)
    first = next((data / "train").rglob("*.mp4")).parent
    for place in range(MANY):
        (first / f"a{place:03d}.mp4").write_bytes(b"no video")
    for path in (data / "train").rglob("*.mp4"):
        path.write_bytes(b"no video")
    read = counted(monkeypatch, VideoStore, "frames")
    job = Job("digits_vit", data=str(data), batch_size=16, bench="kinetics")
    with pytest.raises(SetUpError):
        head.train(job, Recipe(epochs=1), results=tmp_path / "out")
    assert len(read) < MANY / 2
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_single_samples_and_other_reasons_are_no_fault_of_the_set_up() -> None:
    whole = [(f"{at}.png", f"{at}.png cannot be read: torn") for at in range(ENOUGH)]
    FirstSamples().see(whole[:-1])
    FirstSamples().see([*whole[:-1], ("8.png", "8.png cannot be read: empty")])
    FirstSamples().see([*whole, ("good.png", None)])
    late = FirstSamples()
    late.see([("good.png", None)])
    late.see(whole)
    with pytest.raises(SetUpError):
        FirstSamples().see(whole)
