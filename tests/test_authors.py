"""Settings of methods' authors: each entry fits its method and model; the command line wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from cases import checkpoint
from pictures import picture_folder
from torch import nn

from asap_eval.cli import main
from asap_eval.cli.authors import ABOUT, KIND, fill
from asap_eval.cli.compose import composed
from asap_eval.cli.entries import entries, known_models
from asap_eval.cli.ls import main as ls
from asap_eval.cli.overrides import keys_of
from asap_eval.cli.settings import settings_of
from asap_eval.errors import AsapEvalError, BadValueError, UnknownNameError
from asap_eval.hosts import geometry_of
from asap_eval.method import Batch, build, method_class
from asap_eval.models import model_specs
from asap_eval.models.clip_tower import ClipTower
from asap_eval.models.lvvit import lvvit_s
from asap_eval.options import options
from asap_eval.record import Job, read_records

ENTRIES = [
    pytest.param(model, method, entry, id=f"{model}-{method}")
    for model in known_models(KIND)
    for method, entry in entries(KIND, model).items()
]


def model_of(name: str) -> nn.Module:
    """The model's real shapes, without memory for its weights."""
    spec = model_specs()[name]
    with torch.device("meta"):
        if spec.timm is not None:
            return timm.create_model(spec.timm).eval()
        return (ClipTower(**spec.kwargs) if spec.hf else lvvit_s()).eval()


def values(entry: dict[str, Any]) -> dict[str, Any]:
    return {option: value for option, value in entry.items() if option not in ABOUT}


@pytest.mark.parametrize(("model", "method", "entry"), ENTRIES)
def test_an_entry_fits(model: str, method: str, entry: dict[str, Any]) -> None:
    assert entry["source"].rstrip().endswith(("[code]", "[paper]", "[recalled]"))
    known = {name for name, _, _ in options(method_class(method))}
    assert set(entry.get("unknown", ())) <= known - set(values(entry))
    extra = {"checkpoint": checkpoint(3)} if method == "dynamicvit" else {}
    geometry = geometry_of(model_of(model))
    build(method, **values(entry), **extra).check(
        Batch(
            1, geometry.tokens, geometry.prefix, geometry.depth, geometry.has_cls, geometry.grid,
            0, torch.device("cpu"), lambda _: "",
        )
    )  # fmt: skip


def test_both_codes_of_one_model_have_the_same_entries() -> None:
    assert entries(KIND, "clip_vit_l14_336") == entries(KIND, "clip_vit_l14_336_hf")


def job(*overrides: str) -> Job:
    """The job of a command line that is only composed."""
    made = composed([*overrides, "data=x"])
    return settings_of(made.config, made.choices, keys_of(made.overrides)).job


def test_options_with_a_name_of_their_own() -> None:
    """FasterVLM is a setting of VisPruner; the command line wins, another method is refused."""
    given = ("model=llava_tiny", "bench=vlm", "settings=fastervlm")
    assert job(*given, "method=vispruner", "k=29").params["ratio"] == 1.0
    assert job(*given, "method=vispruner", "method.ratio=0.5").params["ratio"] == 0.5
    with pytest.raises(BadValueError, match="of method 'vispruner', not of 'scope'"):
        job(*given, "method=scope")


AUTHORS = ("settings=authors", "model=deit_small")


def test_knob_and_options_are_filled() -> None:
    found = job(*AUTHORS, "method=ppt")
    assert found.k == 50
    assert found.params == {"blocks": [3, 6, 9], "threshold": 7e-5}
    assert job("model=deit_small", "method=ppt").k is None  # the method's default
    assert job(*AUTHORS, "method=tome").k == 13
    assert job("settings=authors", "model=clip_vit_l14_336", "method=tome").k == 8


def test_the_command_line_wins() -> None:
    assert job(*AUTHORS, "method=ppt", "k=40").k == 40
    by_name = job(*AUTHORS, "method=ppt", "method.r=40", "method.blocks=[1]")
    assert (by_name.k, by_name.params["r"], by_name.params["blocks"]) == (None, 40, [1])
    # Given, though equal to the method's default.
    assert job(*AUTHORS, "method=ppt", "method.blocks=null").params["blocks"] is None


def test_a_budget_leaves_only_the_options() -> None:
    found = job(*AUTHORS, "method=zero_tprune", "budget=macs", "target=-30")
    assert found.k is None
    assert found.params["after"] == [1, 3, 6, 9, 11]
    assert "k" not in found.params


def test_a_lost_value_has_to_be_given() -> None:
    with pytest.raises(BadValueError, match=r"tau of 'asap' is not known.*method\.tau="):
        job(*AUTHORS, "method=asap")
    found = job(*AUTHORS, "method=asap", "method.tau=1.5")
    assert (found.k, found.params["m"], found.params["tau"]) == (8, 1, 1.5)


def test_a_missing_entry_names_what_exists() -> None:
    with pytest.raises(UnknownNameError, match=r"'ppt' on model 'deit_tiny'; for this.* tome"):
        job("settings=authors", "model=deit_tiny", "method=ppt")
    with pytest.raises(UnknownNameError, match=r"'dinov2_small'; in all.*deit_small.*lvvit_s"):
        job("settings=authors", "model=dinov2_small", "method=tome")
    with pytest.raises(AsapEvalError, match="random"):
        job(*AUTHORS, "method=random")


def test_the_unpruned_model_needs_no_entry() -> None:
    assert fill("dinov2_small", "none", (), budget=False) == (None, {})


def test_a_run_keeps_what_was_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = picture_folder(tmp_path / "data", 1)
    arguments = ["model=deit_tiny", "weights=random", f"data={data}", "limit=1"]
    assert main([*arguments, "method=tome", "settings=authors"]) == 0
    records, _ = read_records(tmp_path / "results")
    found = {record.job.method: record for _, record in records}
    assert found["tome"].job.k == 13
    assert found["tome"].provenance.config["settings"] == {"kind": "authors"}
    assert "settings" not in found["none"].provenance.command
    capsys.readouterr()
    assert main([*arguments, "method=tome", "k=13"]) == 0
    assert "Already done" in capsys.readouterr().err  # the same job, however it was asked for


def test_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ls(["settings", "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    for model in known_models(KIND):
        for method, entry in entries(KIND, model).items():
            assert f"| {model} | {method} |" in out
            assert entry["source"].replace("<", "&lt;") in out
    assert "tau unknown" in out
