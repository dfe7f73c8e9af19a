"""Methods of others: a file, a package, an entry point; their sources, origin and errors."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import ROOT

from asap_eval import plugins
from asap_eval.cli import main
from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.method import method_class
from asap_eval.registry import METHODS
from asap_eval.runner import sources
from asap_eval.runner.sources import _closure, sources_digest

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
METHOD = next(
    text for text in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "@register" in text
)
COMMANDS = [
    shlex.split(line) for text in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in text.splitlines()
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's method, to be in; what is loaded there is gone afterwards."""
    (tmp_path / "my_method.py").write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")  # no cell is broken
    monkeypatch.setattr(METHODS, "classes", METHODS.all())
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules = {*sys.modules}
    yield tmp_path
    forget(modules)


def forget(modules: set[str]) -> None:
    """Let Python know modules no longer that were imported since, as a new process would."""
    for name, module in list(sys.modules.items()):
        if name not in modules and str(getattr(module, "__file__", "")).find("pytest-") > 0:
            del sys.modules[name]
    METHODS.classes = {n: c for n, c in METHODS.classes.items() if c.__module__ in sys.modules}
    plugins.own_of.cache_clear()
    sources._content.cache_clear()


def test_the_commands_of_the_page_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed, planned, table = (command[1:] for command in COMMANDS)
    assert main(listed) == 0
    assert "my_method.py, sha256 " in capsys.readouterr().out
    assert main([*planned, "results=made"]) == 0
    assert "power=2.0" in capsys.readouterr().out
    assert not (folder / "made").exists()
    assert main([*table, "results=made"]) == 0
    (path,) = (folder / "made").glob("*-key_length-*.json")
    record = json.loads(path.read_text())
    digest = plugins.file_sha256(folder / "my_method.py")
    assert record["provenance"]["method"] == {"file": "my_method.py", "sha256": digest}
    assert "plugins=my_method.py" in record["provenance"]["command"]
    (baseline,) = (folder / "made").glob("*-none-*.json")
    assert "plugins" not in json.loads(baseline.read_text())["provenance"]["command"]
    capsys.readouterr()
    assert main([*table, "results=made"]) == 0
    assert capsys.readouterr().err.count("Already done") == 2
    forget({*sys.modules} - {"my_method"})
    assert "key_length" not in METHODS.names()  # as on a machine that lacks the file
    for words in (["report", "results=made"], ["report", "html", "results=made", "out=page.html"]):
        assert main(words) == 0
    assert "key_length" in capsys.readouterr().out
    assert "key_length" in (folder / "page.html").read_text()
    assert main(["report", "pictures", "results=made", "out=drawn"]) == 0
    assert list((folder / "drawn").iterdir())


def test_what_a_file_imports_beside_it_is_a_source(folder: Path) -> None:
    (folder / "files").mkdir()  # called like a room of ours that only stores
    (folder / "files" / "__init__.py").write_text("from . import inner\n")
    (folder / "files" / "inner.py").write_text("VALUE = 1\n")
    (folder / "unused.py").write_text("")
    (folder / "my_method.py").write_text(f"from files.inner import VALUE\nimport yaml\n{METHOD}")
    assert plugins.load("my_method.py") == ["key_length"]
    assert plugins.load(["my_method.py"]) == ["key_length"]  # once more is no clash
    found = _closure(["my_method"])
    others = {name for name in found if not name.startswith("asap_eval.")}
    assert others == {"my_method", "files", "files.inner"}
    assert "asap_eval.scorer" in found
    before = sources_digest(["my_method"])
    (folder / "files" / "inner.py").write_text("VALUE = 2\n")
    assert sources_digest(["my_method"]) == before  # this process runs what it imported
    sources._content.cache_clear()
    assert sources_digest(["my_method"]) != before


def test_a_method_without_a_file_is_refused(folder: Path) -> None:
    cls = type("Typed", (), {"__module__": "typed_in"})
    with pytest.raises(AsapEvalError, match="'typed_in' of a method has no file"):
        plugins.origin(cls)
    with pytest.raises(AsapEvalError, match=r"Save the method in a \.py file"):
        sources_digest(["typed_in"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.py", None, r"absent.py: there is no such file"),
        ("no_such_package", None, "no module of that name"),
        ("broken.py", "x = 1\ny = 1 / 0\n", r"ZeroDivisionError: .*broken.py, line 2\)"),
        ("torn.py", "x = = 1\n", r"SyntaxError: .*torn.py, line 1\)"),
        ("leaves.py", "import sys\nsys.exit(3)\n", r"SystemExit: 3 \(.*leaves.py, line 2\)"),
        ("idle.py", "x = 1\n", "registers no method"),
        ("json.py", METHOD, r"'json' is .*json.* to Python already: rename"),
        ("twin.py", METHOD.replace("key_length", "asap"), r"'asap', of asap-eval itself .*twin.py"),
        ("other.py", METHOD, r"'key_length', of .*my_method.py and of .*other.py"),
    ],
)
def test_what_cannot_be_used_says_why(
    name: str, content: str | None, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path(name).write_text(content)
    if name == "other.py":
        plugins.load("my_method.py")
    assert main([f"plugins={name}", "method=key_length"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(says, error)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("view.keys.nrm()", r"my_method.py, line {line}: AttributeError: .* attribute 'nrm'\."),
        ("view.keys.flatten(5, 6)", r"my_method.py, line {line}: IndexError: "),
        ("deeper.fails()", r"deeper.py, line 2: KeyError: 'x'\."),
        ("view.size", r"key_length: score gives \[\d+, \d+\] where \[\d+, \d+\] is due"),
    ],
)
def test_a_method_that_fails_names_its_line(
    returned: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "deeper.py").write_text("def fails():\n    return {}['x']\n")
    head, _, _ = METHOD.rpartition("        return ")
    Path("my_method.py").write_text(f"import deeper\n{head}        return {returned}\n")
    line = len(head.splitlines()) + 2
    given = ["plugins=my_method.py", "model=digits_vit", "data=example", "limit=2", "results=made"]
    assert main([*given, "methods=none,key_length", "k=0.5", "batch_size=2"]) != 0
    said = says.format(line=line)
    out, err = capsys.readouterr()
    assert re.search(f"error: .*{said}", err)
    assert "unexpected" not in err
    assert "key_length" in out  # the row stays in the table, beside the other
    (failed,) = (folder / "made").glob("*-key_length-*.json")
    assert re.search(said, json.loads(failed.read_text())["error"])


@pytest.mark.parametrize(
    "function", ["begin(self, batch)", "macs(self, view, state)", "__post_init__(self)"]
)
def test_a_method_that_fails_elsewhere_names_its_line(
    function: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my_method.py").write_text(f"{METHOD}\n    def {function}:\n        return {{}}['x']\n")
    given = ["plugins=my_method.py", "model=digits_vit", "data=example", "limit=2", "results=made"]
    assert main([*given, "methods=none,key_length", "k=0.5", "batch_size=2"]) != 0
    out, err = capsys.readouterr()
    line = len(METHOD.splitlines()) + 3
    assert re.search(rf"error: .*my_method.py, line {line}: KeyError: 'x'\.", err)
    assert "unexpected" not in err
    assert "key_length" in out  # the row stays in the table, beside the other


def test_a_file_can_be_repaired(folder: Path) -> None:
    Path("late.py").write_text(METHOD + "\nraise ValueError('not yet')\n")
    with pytest.raises(BadValueError, match="not yet"):
        plugins.load("late.py")
    Path("late.py").write_text(METHOD)
    assert plugins.load("late.py") == ["key_length"]
    assert method_class("key_length").__module__ == "late"


INSTALLED = r"""
import sys
from asap_eval.cli import main
from asap_eval.cli.ls import methods_of_others
from asap_eval.report.text import show
show([methods_of_others()], "markdown")
assert "torch" not in sys.modules and "their_package" not in sys.modules
assert main(["ls", "methods", "plugins=their_package"]) == 0
from asap_eval import plugins
from asap_eval.method import method_class
from asap_eval.runner.sources import _closure
cls = method_class("key_length")
assert plugins.origin(cls) == {"package": "their-package", "version": "1.5"}, plugins.origin(cls)
found = {name for name in _closure([cls.__module__]) if not name.startswith("asap_eval.")}
assert found == {"their_package", "their_package.length"}, found
assert main(["method=clash"]) == 2
"""


def test_an_installed_package(tmp_path: Path) -> None:
    package, info = tmp_path / "their_package", tmp_path / "their_package-1.5.dist-info"
    package.mkdir()
    info.mkdir()
    (tmp_path / "neighbour.py").write_text("")
    (package / "__init__.py").write_text("from their_package import length\n")
    (package / "length.py").write_text(f"import neighbour\n{METHOD}")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.5\n")
    (info / "RECORD").write_text("their_package/__init__.py,,\ntheir_package/length.py,,\n")
    (info / "entry_points.txt").write_text(
        "[asap_eval.methods]\nkey_length = their_package.length\nclash = their_package.absent\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED],
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "HOME": str(tmp_path), "COLUMNS": "300"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "their-package 1.5 (their_package.length)" in done.stdout
    assert "the package their-package 1.5 cannot be imported: ModuleNotFoundError" in done.stderr


def test_two_packages_with_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[asap_eval.methods]\nsame = {name}\n")
    code = "from asap_eval.registry import METHODS; METHODS.names()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
    )
    error = done.stderr.splitlines()[-1]
    assert "Two methods are called 'same'" in error
    assert "the package one 1" in error
    assert "the package two 1" in error
