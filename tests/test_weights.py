"""Checkpoints: no code runs, everything fits or is named."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from asap_eval.checkpoint import read_checkpoint
from asap_eval.errors import BadValueError, WeightsError
from asap_eval.files.digests import file_sha256
from asap_eval.models import load_model
from asap_eval.models.weights import fit, tensors_sha256


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return timm.create_model("test_vit").state_dict()


def _load(file: Path, **options: Any) -> Any:
    return load_model("test_vit", weights=file, **options)


def test_safetensors(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    loaded = _load(file)
    assert all(torch.equal(state[key], value) for key, value in loaded.model.state_dict().items())
    assert loaded.weights.name == str(file)
    assert loaded.weights.sha256 == file_sha256(file)
    assert loaded.weights.trained


@pytest.mark.parametrize("nest", ["", "state_dict", "model", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_torch_files(state: dict[str, Tensor], nest: str, prefix: str, tmp_path: Path) -> None:
    content: Any = {f"{prefix}{key}": value for key, value in state.items()}
    if nest:
        content = {nest: content, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "w.pth")
    loaded = _load(tmp_path / "w.pth")
    assert torch.equal(loaded.model.head.weight, state["head.weight"])
    assert loaded.weights.entry == nest


def test_averaged_weights_go_first_and_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    averaged = {key: value + 1 for key, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": averaged}, tmp_path / "w.pt")
    loaded = _load(tmp_path / "w.pt")
    assert loaded.weights.entry == "state_dict_ema"
    assert torch.equal(loaded.model.head.weight, state["head.weight"] + 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_half_weights_take_the_wanted_dtype(
    state: dict[str, Tensor], dtype: str, tmp_path: Path
) -> None:
    half = {key: value.half() for key, value in state.items()}
    save_file(half, tmp_path / "w.safetensors")
    head = _load(tmp_path / "w.safetensors", dtype=dtype).model.head.weight
    wanted = getattr(torch, dtype)
    assert head.dtype == wanted
    assert torch.equal(head, half["head.weight"].float().to(wanted))


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused(way: str, tmp_path: Path) -> None:
    file, mark = tmp_path / "w.pth", tmp_path / "it_ran"
    content = {"model": {"head.weight": torch.zeros(1)}, "extra": _Evil(mark)}
    if way == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps({"extra": _Evil(mark)}, protocol=2))
    with pytest.raises(WeightsError, match=r"refused.*mkdir.*could run code.*safetensors"):
        _load(file)
    assert not mark.exists()
    torch.load(file, weights_only=False) if way == "torch" else pickle.loads(file.read_bytes())
    assert mark.exists(), "the test's own pickle is harmless, so it shows nothing"


def test_the_first_keys_that_do_not_fit_are_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    bad = dict(state)
    for number in range(6):
        del bad[f"blocks.{number}.norm1.weight"]
    bad["extra.weight"] = torch.zeros(1)
    bad["head.weight"] = torch.zeros(10, 64)
    save_file(bad, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as caught:
        _load(tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "6 missing: blocks.0.norm1.weight" in text
    assert "blocks.4.norm1.weight and 1 more" in text
    assert "blocks.5.norm1.weight" not in text
    assert "1 unexpected: extra.weight" in text
    assert "1 of another shape: head.weight [10, 64] instead of [1000, 64]" in text


def test_integers_are_no_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Cast to floats they would be right in shape alone: quantised weights need their scales."""
    key = next(key for key in state if key.endswith("qkv.weight"))
    file = tmp_path / "w.safetensors"
    save_file(state | {key: state[key].to(torch.int8)}, file)
    with pytest.raises(WeightsError, match=r"1 of another type: .*qkv.weight torch.int8 instead"):
        load_model("test_vit", weights=file)


def test_a_misfit_leaves_the_model_as_it_was() -> None:
    model = nn.Linear(2, 2)
    before = tensors_sha256(model)
    with pytest.raises(WeightsError):
        fit(model, {"weight": torch.ones(2, 2)}, "w")
    assert tensors_sha256(model) == before


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _text(file: Path) -> None:
    file.write_text("this is no checkpoint")


def _list(file: Path) -> None:
    torch.save([torch.zeros(1)], file)


def _number(file: Path) -> None:
    torch.save({"model": {"head.weight": 3}}, file)


def _none(file: Path) -> None:
    torch.save({}, file)


def _cut(file: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])


@pytest.mark.parametrize("write", [_empty, _text, _list, _number, _none, _cut])
def test_files_that_are_no_checkpoint(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"weights=.*w\.pt"):
        read_checkpoint(tmp_path / "w.pt")


def test_a_cut_safetensors_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read_checkpoint(file)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nothing.pth does not exist"):
        _load(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        _load(tmp_path)
    with pytest.raises(BadValueError, match="contradict"):
        _load(tmp_path / "nothing.pth", pretrained=False)


def test_the_hash_of_tensors_sees_names_and_values() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    before = tensors_sha256(model)
    assert before == tensors_sha256(model)
    model.weight.data[0, 0] += 1e-3
    assert tensors_sha256(model) != before
    assert tensors_sha256(model.to(torch.bfloat16)) != before
