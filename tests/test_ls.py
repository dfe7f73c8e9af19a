"""What asap-eval ls prints is what is registered, and it keeps a table inside a file fresh."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sheets import texts

from asap_eval.bench.bench import benches
from asap_eval.cli.index import type_name
from asap_eval.cli.ls import main, options_table
from asap_eval.method import methods
from asap_eval.models import model_specs


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(list(args)) == 0
    return capsys.readouterr().out


def test_every_method_and_its_card_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "methods", "--format", "markdown")
    rows = {line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("|")}
    assert set(methods()) <= set(rows)
    for name, cls in methods().items():
        for text in (cls.card.paper, cls.card.licence, cls.card.training, cls.card.deviations):
            assert text in rows[name]
    assert "attention" in rows["asap"]
    assert "per image" in rows["asap"]
    assert "fixed" in rows["random"]


def test_options_with_types_and_defaults() -> None:
    rows = {(row[0], row[1]): tuple(row[2:]) for row in texts(options_table())}
    assert rows["asap", "reduce"] == ("pool | prune", "pool")
    assert rows["asap", "tau"] == ("float | str", "3.0")
    assert rows["asap", "n"] == ("int | none", "none")


def test_type_name_of_nested_choices() -> None:
    assert type_name(int | list[int] | None) == "int | list | none"


def test_without_a_name_everything_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys)
    assert {"deit_tiny", "digits_vit"} <= set(model_specs())
    for name in (*model_specs(), *methods(), *benches()):
        assert re.search(rf"\n +{name} ", out)


def test_into_replaces_what_is_between_the_markers(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- methods -->\nold\n<!-- /methods -->\nafter\n")
    assert main(["methods", "--into", str(file)]) == 0
    once = file.read_text()
    assert once.startswith("before\n<!-- methods -->\n")
    assert once.endswith("<!-- /methods -->\nafter\n")
    assert "STALE" not in once
    assert "| asap |" in once
    assert main(["methods", "--into", str(file)]) == 0
    assert file.read_text() == once


@pytest.mark.parametrize("content", ["", "<!-- methods -->\n", "<!-- /methods -->"])
def test_into_a_file_without_markers_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    file = tmp_path / "page.md"
    file.write_text(content)
    assert main(["methods", "--into", str(file)]) == 1
    assert file.read_text() == content
    assert "<!-- methods -->" in capsys.readouterr().err


def test_into_needs_the_name_of_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--into", str(tmp_path / "page.md")]) == 2
    assert "name of one list" in capsys.readouterr().err


def test_unknown_list_is_refused_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["method"]) == 2
    assert "methods" in capsys.readouterr().err
