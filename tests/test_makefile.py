"""The Makefile: a target for every experiment, all of them listed, each with a small run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

sys.path.insert(0, str(ROOT / "examples"))

from smoke import CASES, INPUTS

from asap_eval.experiment import load

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
OWN = [name for name in EXPERIMENTS if name != "example"]
"""Experiments with a target; the example is `make example`."""
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*words: str) -> str:
    done = subprocess.run(
        ["make", "VENV=/nowhere", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("name", OWN)
def test_every_experiment_has_a_target(name: str) -> None:
    said = make("-n", name, "DATA=somewhere", "ARGS=limit=3")
    assert f"/nowhere/bin/asap-eval experiment={name} data=somewhere  limit=3" in said


@pytest.mark.parametrize(
    ("name", "extra"), [("table1", "-e ."), ("table3", "-e '.[video]'"), ("fig7", "-e .")]
)
def test_what_an_experiment_needs_is_installed(name: str, extra: str) -> None:
    assert extra in make("-n", name, "DATA=somewhere")


def test_without_data_it_says_what_to_give() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        make("-n", "table1")
    assert "give DATA=" in failed.value.stderr


def test_help_lists_every_target() -> None:
    said = make("help")
    listed = re.findall(r"^  make (\S+) +\S", said, flags=re.M)
    makefile = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (.*)", makefile, flags=re.M)[0].split()
    named = [target for target in phony if not target.startswith("$")]
    assert sorted(listed) == sorted([*named, *OWN])
    assert load("table1").about.title in said


def test_every_experiment_is_tried() -> None:
    """`make smoke` runs all; a new experiment needs a line there."""
    assert set(OWN) <= set(CASES)
    named = {word for case in CASES.values() for word in re.findall(r"{(\w+)}", case)}
    assert named == set(INPUTS)


def test_smoke_goes_on_after_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both cases run, one of them breaks, the summary names it and the exit code tells."""
    import smoke

    asked = {"fig7": "model=nothing_of_this_name", "absent": "", "saliency": "data={photographs}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoke, "CASES", asked)
        patch.setattr(
            sys, "argv", ["smoke", "--out", str(tmp_path), "--shared", str(tmp_path / "none")]
        )
        assert smoke.main() == 1
    summary = capsys.readouterr().out.splitlines()[-3:]
    assert "FAILED" in summary[0]
    assert "skipped: there is no such experiment" in summary[1]
    assert "skipped: needs photographs" in summary[2]
    assert "nothing_of_this_name" in (tmp_path / "fig7.log").read_text()
