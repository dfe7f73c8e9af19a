"""README and docs/ keep their word: code runs, commands and files exist, tables are fresh."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from project import ROOT

import asap_eval
from asap_eval.cli import main
from asap_eval.cli.front import COMMANDS as NAMES
from asap_eval.cli.ls import filled, methods_table
from asap_eval.cli.overrides import check, parsed
from asap_eval.cli.words import read
from asap_eval.registry import METHODS
from asap_eval.report.experiment.verdict import word_of

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "results" / "README.md", *ROOT.glob("docs/**/*.md"))
}
"""Everything that is there to be read."""
BASH = re.compile(r"```bash\n(.*?)```", re.DOTALL)
SHELL = [
    shlex.split(line, comments=True)
    for text in PAGES.values()
    for block in BASH.findall(text)
    for line in block.replace("\\\n", " ").splitlines()
]


def python(path: str) -> list[str]:
    """The Python of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", PAGES[ROOT / path], re.DOTALL)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods registered by a test are gone after it."""
    monkeypatch.setattr(METHODS, "classes", METHODS.all())


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_api_example_runs() -> None:
    names = run(python("README.md")[0])
    assert names["logits"].shape == (2, 1000)
    assert names["trace"].lengths.shape == (12, 2)
    assert names["trace"].source.shape == (2, 196)


def test_the_features_example_runs() -> None:
    names = run(python("docs/features.md")[0])
    assert names["dense"].shape == (2, 16, 16, 384)
    assert names["mean"].shape == (2, 384)
    assert [each.shape for each in names["maps"]] == [(2, 384, 16, 16)] * 2
    assert names["kept"].shape[:2] == (2, names["tokens"].shape[1] - names["prefix"])


def test_the_llava_example_runs() -> None:
    names = run(python("docs/vlm.md")[0])
    assert names["trace"].lengths.shape == (23, 1)
    assert names["trace"].handed_to_llm.tolist() == [37]
    assert names["trace"].language.lengths.shape == (18, 1)
    assert names["ids"].shape[1] == names["inputs"]["input_ids"].shape[1] + 8


@pytest.mark.usefixtures("registry")
def test_the_example_method_runs() -> None:
    names = run(python("README.md")[0]) | run(python("README.md")[1])
    with asap_eval.reduce(names["model"], "key_norm", k=0.5) as trace, torch.inference_mode():
        names["model"](names["images"])
    assert trace.lengths[:, 0].tolist() == [197] * 3 + [1 + 98 + 1] * 9


class Understood(BaseException):
    """The words of a command were read."""


COMMANDS = [[name] for name in NAMES]
RUNS = [words for words in SHELL if words[:1] == ["asap-eval"] and words[1:2] not in COMMANDS]
OTHERS = [words for words in SHELL if words[:1] == ["asap-eval"] and words[1:2] in COMMANDS]


@pytest.mark.parametrize("command", RUNS, ids=" ".join)
def test_commands_name_things_that_exist(command: list[str]) -> None:
    check(parsed([word for word in command[1:] if not word.startswith("-")]))


@pytest.mark.parametrize("command", OTHERS, ids=" ".join)
def test_the_other_commands_can_be_asked_for(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their words are read; nothing is done."""

    def understood(*given: Any, **how: Any) -> None:
        read(*given, **how)
        raise Understood

    monkeypatch.setattr("asap_eval.cli.words.read", understood)
    if {"--help", "completion", "doctor"} & set(command):
        assert main(command[1:]) == 0
    else:
        with pytest.raises(Understood):
            main(command[1:])


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {command[1] for command in SHELL if command[:1] == ["make"]}
    assert {"example", "test"} <= named
    for target in named:
        experiment = ROOT / "conf" / "experiment" / f"{target}.yaml"
        assert experiment.is_file() or re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_table_of_methods_is_fresh() -> None:
    path = ROOT / "docs" / "methods.md"
    fresh = filled(path, "methods", [methods_table()])
    assert fresh == PAGES[path], "run: asap-eval ls methods --into docs/methods.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_it_links_to_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", PAGES[page]):
        assert (page.parent / target).exists(), target


def test_every_page_and_picture_is_in_the_index() -> None:
    index = PAGES[ROOT / "docs" / "README.md"]
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)", index)}
    pages = {path for path in PAGES if path.parent == ROOT / "docs"} - {ROOT / "docs" / "README.md"}
    assert pages | set(ROOT.glob("docs/*.png")) | set(ROOT.glob("docs/figures/*.png")) <= linked


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_its_findings_are_those_of_the_records() -> None:
    """Every line of the first table is a line of results/table1.md, number by number."""
    first = README[README.index("| method | top-1 %") :].split("\n\n")[0].splitlines()[2:]
    table = (ROOT / "results" / "table1.md").read_text(encoding="utf-8")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    head, rows = cells(lines[0]), [cells(line) for line in lines[2:]]
    names = ("top-1 %", "Δ [95 %]", "published Δ", "verdict", "MACs %: all (model)")
    said = []
    for row in rows:
        top1, delta, printed, word, macs = (row[head.index(name)] for name in names)
        short = [top1.split()[0], delta, printed.split()[0], word_of(word), macs.split()[0]]
        said.append(short)
    assert [cells(line)[1:] for line in first] == said
