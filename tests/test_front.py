"""One command: what its first word chooses, what needs no torch, names of before, closed pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT, read_toml

import asap_eval
from asap_eval.cli import main, old
from asap_eval.cli.candidates import COMMANDS as COMPLETED
from asap_eval.cli.front import COMMANDS

VERSION = f"asap-eval {asap_eval.__version__}\n"
HEAVY = {"torch", "torchvision", "timm", "transformers", "datasets", "pandas", "matplotlib"}
"""Packages that take long to import; timm brings wandb along where it is installed."""


def started(words: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """A process that runs a command and says what of the heavy packages it imported."""
    code = (
        f"import sys; from asap_eval.cli import main; code = main({words!r})\n"
        f"print('HEAVY', sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the index of methods: the first list of an installation makes it."""
    folder = tmp_path_factory.mktemp("cache")
    assert started(["ls", "methods"], folder).returncode == 0
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["help", "report"],
        ["ls"],
        ["ls", "methods", "--options"],
        ["ls", "settings"],
        ["report", "--help"],
        ["report", "--version"],
        ["recompute", "--help"],
        ["jobs", "results=results"],
        ["head", "--help"],
        ["check", "--help"],
        ["new", "--help"],
        ["ls", "checks"],
        ["completion", "bash"],
        ["completion", "words", "line=asap-eval method=asap method."],
        ["reprot"],
    ],
    ids=" ".join,
)
def test_what_starts_without_torch(words: list[str], cache: Path) -> None:
    done = started(words, cache)
    assert done.returncode == (2 if words == ["reprot"] else 0), done.stderr
    assert done.stderr.splitlines()[-1] == "HEAVY []"


def test_the_python_api_is_there_without_torch(cache: Path) -> None:
    code = "import sys, asap_eval; assert asap_eval.reduce; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_changed_source_makes_a_new_index(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from asap_eval.cli import index

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (before,) = cache.glob("asap_eval/index-*.json")
    monkeypatch.setattr(index, "_digest", lambda: "0" * 16)
    found = index.index()
    (after,) = cache.glob("asap_eval/index-*.json")
    assert before.name != after.name
    assert found == index.index()  # read again, and the same
    monkeypatch.setattr("asap_eval.report.text.save", lambda *_: (_ for _ in ()).throw(OSError))
    after.write_text("torn")
    assert found == index.index()  # a cache that cannot be read or written is no error
    assert not after.exists()


@pytest.mark.parametrize("words", [[], ["ls"], ["run", "k=2"], ["report", "diff"], ["train"]])
def test_the_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--version"]) == 0
    assert capsys.readouterr().out == VERSION


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["reprot"], "Did you mean report"),
        (["lst"], "Did you mean ls"),
        (["model", "deit_tiny"], "'model' is a key, not a command: give model=deit_tiny"),
        (["k"], "give k=<value>"),
        (["ls", "method"], "Did you mean methods"),
        (["ls", "models", "benchmarks"], "'benchmarks' has no key"),
        (["ls", "formt=markdown"], "Did you mean format"),
        (["ls", "--format"], "--format stands without a value"),
        (["recompute"], "results is missing"),
        (["strip", "a.mp4", "side=few"], "side='few': give a whole number"),
        (["head", "out=x", "out=y"], "out is given twice"),
        (["report", "claims=perhaps"], "give true or false"),
        (["method=asap", "deit_tiny"], "Give model=deit_tiny"),
        (["method=asap", "limit"], "Give limit=<value>"),
        (["method=asap", "--limit"], "--limit stands without a value"),
        (["--cfg", "hydra"], "Available: job"),
        (["--config-dir", "/absent"], "no such folder"),
        (["--tau", "2"], "As an option of the method: method.tau="),
        (["num_classes=10"], "As an option of the model: model.num_classes="),
        (["--verion"], "Did you mean --version"),
        (["model", "=", "deit_tiny"], "give model=deit_tiny without spaces"),
        (["model=deit_tiny,"], "ends in a comma"),
        (["model=own.pth"], "weights=own.pth"),
        (["method=mine.py"], "plugins=mine.py"),
        (["train", "plugin=x.py"], "Did you mean plugins"),
        (["plugin=x.py", "method=mine"], "Did you mean plugins"),
        (["head", "out=x", "names=absent.txt"], "names=absent.txt does not exist"),
        (["strip", "README.md", "model=deit_tinny"], "Did you mean deit_tiny"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_not_understood(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    whole = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == whole
    for name in COMMANDS:
        assert main(["help", name]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"asap-eval {name}" if name != "run" else "asap-eval:")
        assert name == "run" or f"\n  {name} " in whole
        assert main([name, "--help"]) == 0
        assert capsys.readouterr().out == said
    assert {*COMMANDS, "help"} == set(COMPLETED)


def test_the_module_is_the_command() -> None:
    words = [sys.executable, "-m", "asap_eval", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, VERSION, "")


def test_old_names_say_the_new_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = read_toml(ROOT / "pyproject.toml")["project"]["scripts"]
    names = {name: place for name, place in scripts.items() if name != "asap-eval"}
    assert len(names) == 7
    for name, place in names.items():
        module, _, function = place.partition(":")
        assert module == old.__name__
        monkeypatch.setattr(sys, "argv", [name, "--version"])
        assert getattr(old, function)() == 0
        out, err = capsys.readouterr()
        assert out == VERSION
        assert err.startswith(f"{name} is now `asap-eval ")
        assert err.count("\n") == 1


def test_the_old_strip_takes_its_old_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(old, "main", asked.append)
    given = ["asap-eval-strip", "a.mp4", "--option", "tau=2", "--option=m=1", "--k", "2"]
    monkeypatch.setattr(sys, "argv", given)
    old.strip()
    assert asked == [["strip", "a.mp4", "method.tau=2", "method.m=1", "--k", "2"]]


@pytest.mark.parametrize("words", ["--help", "ls models", "ls models format=markdown"])
def test_a_reader_that_leaves_early_is_no_error(words: str) -> None:
    """The pipe is closed before the command writes."""
    line = f"{sys.executable} -m asap_eval {words} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"results={tmp_path}"]) == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert asap_eval.__version__ in lines["asap-eval"]
    assert "torch " in lines["packages"]
    assert {"GPU", "compiler", "kernel", "cache", "hub"} <= {head.split()[0] for head in lines}
    assert lines["locks"].strip() == f"hold in {tmp_path}"
    assert list(tmp_path.iterdir()) == []
