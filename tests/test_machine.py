"""What ``auto`` chooses with and without a GPU, and what devices and precisions are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from asap_eval.cli import machine
from asap_eval.cli.keys import Keys
from asap_eval.cli.machine import Fitted, device_of, fitted
from asap_eval.errors import BadValueError, WeightsError
from asap_eval.models import ModelSpec

IMAGES = ModelSpec("deit_tiny")


def language(**keys: Any) -> ModelSpec:
    return ModelSpec("llava", family="llava", **keys)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("bench", ["imagenet", "kinetics", "vlm", "latency"])
def test_a_cpu_has_what_was_the_default(bench: str) -> None:
    spec = language(hf="owner/name") if bench in ("vlm", "latency") else IMAGES
    assert fitted(Keys(), spec, bench) == Fitted("cpu", "float32", 32, 0)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_taken_and_fed() -> None:
    assert fitted(Keys(), IMAGES, "imagenet") == Fitted("cuda", "float32", 128, 5)
    assert fitted(Keys(), language(), "vlm") == Fitted("cuda", "float32", 8, 5)
    assert fitted(Keys(), language(), "latency").batch_size == 1
    assert fitted(Keys(device="cpu"), IMAGES, "imagenet") == Fitted("cpu", "float32", 32, 0)


@pytest.mark.usefixtures("gpu")
def test_what_is_given_is_taken_and_not_said() -> None:
    given = Keys(device="1", dtype="half", batch_size="7", workers="0")
    found = fitted(given, IMAGES, "imagenet")
    assert found == Fitted("cuda:1", "float16", 7, 0)
    assert found.said(given) == ""
    assert found.said(Keys(device="1", dtype="half")) == "batch_size=7 workers=0"


@pytest.mark.parametrize(
    ("word", "device"),
    [("cpu", "cpu"), ("gpu", "cuda"), ("gpu:1", "cuda:1"), ("0", "cuda:0"), ("cuda", "cuda")],
)
def test_words_for_devices(word: str, device: str) -> None:
    assert device_of(word) == device


@pytest.mark.parametrize(
    ("word", "dtype"),
    [("fp16", "float16"), ("bf16", "bfloat16"), ("fp32", "float32"), ("float33", "float33")],
)
def test_words_for_precisions(word: str, dtype: str) -> None:
    assert fitted(Keys(device="cpu", dtype=word), IMAGES, "imagenet").dtype == dtype


@pytest.mark.parametrize("key", ["batch_size", "workers"])
def test_no_number_is_said(key: str) -> None:
    with pytest.raises(BadValueError, match=f"{key}='many': give a whole number, or auto"):
        fitted(Keys(**{key: "many"}), IMAGES, "imagenet")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_language_model_runs_in_its_checkpoints_dtype(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({name: "bfloat16"}))
    assert fitted(Keys(weights=str(tmp_path)), language(), "vlm").dtype == "bfloat16"
    assert fitted(Keys(), language(hf=str(tmp_path)), "vlm").dtype == "bfloat16"
    assert fitted(Keys(weights="random"), language(hf=str(tmp_path)), "vlm").dtype == "float32"
    assert fitted(Keys(dtype="fp16"), language(hf=str(tmp_path)), "vlm").dtype == "float16"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(file))
    assert fitted(Keys(plan=True), language(hf="owner/name"), "vlm").dtype == "bfloat16"
    file.write_text("torn")
    with pytest.raises(WeightsError, match=r"config\.json cannot be read"):
        fitted(Keys(weights=str(tmp_path)), language(), "vlm")


@pytest.mark.usefixtures("gpu")
def test_a_checkpoint_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(machine, "fetch", absent)
    with pytest.raises(WeightsError, match="The configuration of owner/name"):
        fitted(Keys(), language(hf="owner/name"), "vlm")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    assert fitted(Keys(plan=True), language(hf="owner/name"), "vlm").dtype == "float32"
