"""The wheel: what is in it, and that it works from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from project import ROOT, read_toml

EXAMPLE_BYTES = 3_000_000
"""What the bundled example may cost in the wheel."""


def built(kind: str, source: Path, folder: Path) -> Path:
    """A distribution, built offline with the build backend of this environment."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, int]:
    """Compressed bytes of every file in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.compress_size for info in archive.infolist()}


def tracked(*folders: str) -> set[str]:
    """Files below folders of the project, what Python and tests leave behind aside."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_holds_the_package_its_configuration_and_the_example(
    contents: dict[str, int],
) -> None:
    configuration = {f"asap_eval/{name}" for name in tracked("conf")}
    expected = tracked("asap_eval") | configuration
    inside = {name for name in contents if ".dist-info/" not in name}
    assert inside == expected
    assert "asap_eval/conf/config.yaml" in inside
    assert "asap_eval/py.typed" in inside
    example = {name for name in inside if name.startswith("asap_eval/example/")}
    assert example == {
        f"asap_eval/example/{name}"
        for name in ("README.md", "digits.zip", "digits_vit.safetensors")
    }


def test_example_is_small(contents: dict[str, int]) -> None:
    size = sum(size for name, size in contents.items() if name.startswith("asap_eval/example/"))
    assert 0 < size <= EXAMPLE_BYTES


def test_wheel_has_the_commands_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (scripts,) = [name for name in names if name.endswith("entry_points.txt")]
        text = archive.read(scripts).decode()
    for line in (
        "asap-eval = asap_eval.cli:main",
        "asap-report = asap_eval.cli.old:report",
        "asap-eval-ls = asap_eval.cli.old:ls",
        "asap-train = asap_eval.cli.old:train",
    ):
        assert line in text
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere and run elsewhere, it finds its own configuration, not the checkout's."""
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    script = (
        "from asap_eval import paths; from asap_eval.cli import ls; "
        "print(paths.conf_dir()); raise SystemExit(ls.main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, _, lists = done.stdout.partition("\n")
    assert Path(first) == site / "asap_eval" / "conf"
    assert "deit_tiny" in lists


def test_sdist_builds_the_same_wheel_and_has_no_test_that_cannot_run(
    contents: dict[str, int], tmp_path: Path
) -> None:
    with tarfile.open(built("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("asap_eval-*")
    inside = {path.relative_to(source).parts[0] for path in source.rglob("*") if path.is_file()}
    texts = {"CHANGELOG.md", "LICENSE", "README.md", "PKG-INFO", "pyproject.toml", ".gitignore"}
    assert inside == {"asap_eval", "conf", *texts}
    with zipfile.ZipFile(built("wheel", source, tmp_path / "wheel")) as archive:
        assert set(archive.namelist()) == set(contents)


def test_version_is_said_once() -> None:
    import asap_eval

    source = (ROOT / "asap_eval" / "__init__.py").read_text()
    assert f'__version__ = "{asap_eval.__version__}"' in source
    assert read_toml(ROOT / "pyproject.toml")["project"]["dynamic"] == ["version"]
