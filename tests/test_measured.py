"""Defaults measured per model: taken where nothing else is given, said, recorded, and listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pictures import picture_folder

from asap_eval.cli import main
from asap_eval.cli.compose import composed
from asap_eval.cli.entries import entries, known_models
from asap_eval.cli.ls import main as ls
from asap_eval.cli.measured import ABOUT, KIND, Taken, taken
from asap_eval.cli.overrides import keys_of
from asap_eval.cli.settings import Settings, settings_of
from asap_eval.method import build, method_class
from asap_eval.models import model_specs
from asap_eval.options import options
from asap_eval.record import read_records

ENTRIES = [
    pytest.param(model, method, entry, id=f"{model}-{method}")
    for model in known_models(KIND)
    for method, entry in entries(KIND, model).items()
]

TAU = entries(KIND, "deit_tiny")["asap"]["tau"]


def read(*overrides: str) -> Settings:
    made = composed([*overrides, "data=x"])
    return settings_of(made.config, made.choices, keys_of(made.overrides))


@pytest.mark.parametrize(("model", "method", "entry"), ENTRIES)
def test_an_entry_fits_and_says_where_it_was_measured(
    model: str, method: str, entry: dict[str, Any]
) -> None:
    assert model in model_specs()
    values = {option: value for option, value in entry.items() if option not in ABOUT}
    assert values
    build(method, **values)
    known = {name for name, _, _ in options(method_class(method))}
    assert set(entry["unless"]) <= known - set(values)
    assert {"command", "images", "result"} <= set(entry)
    for text in (f"model={model}", f"method={method}", *(f"{k}={v}" for k, v in values.items())):
        assert text in entry["command"]


def test_it_is_the_default_and_is_said() -> None:
    found = read("model=deit_tiny", "method=asap")
    assert found.job.params["tau"] == TAU
    assert f"method.tau={TAU}, measured on deit_tiny (conf/settings/measured" in found.notes[0]
    assert found.config["settings"] == {
        "kind": "measured", "took": {"tau": TAU}, "file": "conf/settings/measured/deit_tiny.yaml",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "tau"),
    [
        (["model=deit_tiny", "method.tau=2"], 2.0),
        (["model=deit_tiny", "method.tau=3"], 3.0),  # given, though the method's own default
        (["model=deit_tiny", "settings=none"], 3.0),
        (["model=deit_tiny", "method.alpha=0.5"], 3.0),
        (["model=deit_tiny", "method.order=rollout"], 3.0),
        (["model=deit_small"], 3.0),  # nothing was measured on it
        (["model=digits_vit"], 3.0),
    ],
)
def test_what_is_given_wins(overrides: list[str], tau: float) -> None:
    found = read(*overrides, "method=asap")
    assert found.job.params["tau"] == tau
    assert found.notes == ()


def test_it_stands_beside_knob_and_budget() -> None:
    assert read("model=deit_tiny", "method=asap", "k=2").job.params["tau"] == TAU
    budget = read("model=deit_tiny", "method=asap", "budget=macs", "target=-35")
    assert (budget.job.params["tau"], budget.job.k) == (TAU, None)
    assert taken("deit_tiny", "random", ()) == taken("deit_tiny", "none", ()) == Taken()


def test_a_run_says_and_records_it_and_its_baseline_serves_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = picture_folder(tmp_path / "data", 1)
    arguments = ["model=deit_tiny", "weights=random", f"data={data}", "limit=1"]
    assert main([*arguments, "methods=[asap,random]"]) == 0
    assert capsys.readouterr().err.count(f"method.tau={TAU}, measured on") == 1
    records, _ = read_records(tmp_path / "results")
    found = {record.job.method: record for _, record in records}
    assert found["asap"].job.params["tau"] == TAU
    assert found["asap"].provenance.config["settings"]["file"].endswith("deit_tiny.yaml")
    assert found["none"].provenance.config["settings"] == {"kind": "measured"}
    assert main([*arguments, "method=asap", f"method.tau={TAU}", "settings=none"]) == 0
    assert "Already done" in capsys.readouterr().err  # the same job, however it was asked for


def test_rows_of_an_experiment_keep_the_methods_own_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\nrows:\n  - {method: asap}\n", encoding="utf-8")
    data = picture_folder(tmp_path / "data", 1)
    arguments = ["--config-dir", "own", "experiment=mine", "model=deit_tiny", "weights=random",
                 f"data={data}", "limit=1"]  # fmt: skip
    assert main(arguments) == 0
    assert "measured on" not in capsys.readouterr().err
    assert main([*arguments, "settings=measured"]) == 0
    assert f"method.tau={TAU}, measured on" in capsys.readouterr().err
    records, _ = read_records(tmp_path / "results")
    asap = {r.job.params["tau"]: r for _, r in records if r.job.method == "asap"}
    assert set(asap) == {3.0, TAU}
    assert "settings=none" in asap[3.0].provenance.command


def test_the_table_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ls(["settings", "--format", "markdown"]) == 0
    out = capsys.readouterr().out
    for model in known_models(KIND):
        for method, entry in entries(KIND, model).items():
            assert f"| {model} | {method} | measured | tau={entry['tau']} |" in out
            assert entry["command"] in out
