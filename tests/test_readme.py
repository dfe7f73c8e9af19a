"""The README keeps its word: its code runs, its commands exist, its table is fresh."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import torch
from project import ROOT

import asap_eval
from asap_eval import method
from asap_eval.cli.groups import register_choices
from asap_eval.cli.overrides import check, parsed
from asap_eval.ls import filled, methods_table
from asap_eval.train.job import parse

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods registered by a test are gone after it."""
    monkeypatch.setattr(method, "_METHODS", dict(method.methods()))


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_api_example_runs() -> None:
    names = run(PYTHON[0])
    assert names["logits"].shape == (2, 1000)
    assert names["trace"].lengths.shape == (12, 2)
    assert names["trace"].source.shape == (2, 196)


def test_the_llava_example_runs() -> None:
    names = run(PYTHON[1])
    assert names["trace"].lengths.shape == (23, 1)
    assert names["trace"].handed_to_llm.tolist() == [37]
    assert names["trace"].language.lengths.shape == (18, 1)
    assert names["ids"].shape[1] == names["inputs"]["input_ids"].shape[1] + 8


@pytest.mark.usefixtures("registry")
def test_the_example_method_runs() -> None:
    names = run(PYTHON[0]) | run(PYTHON[2])
    with asap_eval.reduce(names["model"], "key_norm", k=0.5) as trace, torch.inference_mode():
        names["model"](names["images"])
    assert trace.lengths[:, 0].tolist() == [197] * 3 + [1 + 98 + 1] * 9


@pytest.mark.parametrize("command", [c for c in SHELL if c[:1] == ["asap-eval"]], ids=" ".join)
def test_commands_name_things_that_exist(command: list[str]) -> None:
    register_choices()
    check(parsed([word for word in command[1:] if not word.startswith("-")]))


@pytest.mark.parametrize("command", [c for c in SHELL if c[:1] == ["asap-train"]], ids=" ".join)
def test_trainings_can_be_asked_for(command: list[str]) -> None:
    if command[1:] != ["--help"]:
        parse(command[1:]).check()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {command[1] for command in SHELL if command[:1] == ["make"]}
    assert {"example", "test"} <= named
    for target in named:
        experiment = ROOT / "conf" / "experiment" / f"{target}.yaml"
        assert experiment.is_file() or re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_table_of_methods_is_fresh() -> None:
    fresh = filled(ROOT / "README.md", "methods", [methods_table()])
    assert fresh == README, "run: asap-eval-ls methods --into README.md"


def test_files_it_links_to_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
