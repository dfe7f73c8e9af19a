"""The count of golden tests: a skipped one, or a listed file that none covers, cannot pass CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from project import ROOT, read_toml

Run = Callable[..., subprocess.CompletedProcess[str]]

TESTS = """
import pytest

@pytest.mark.golden("a/*.bin")
def test_a(shared):
    assert (shared / "a" / "1.bin").exists()

@pytest.mark.golden("b/1.bin")
def test_b():
    {b}

def test_c(shared):
    pass

def test_other():
    pass
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest on a small project of its own, with shared data of its own."""
    tests, shared = tmp_path / "project" / "tests", tmp_path / "shared"
    tests.mkdir(parents=True)
    for name in ("conftest.py", "project.py"):
        shutil.copy(ROOT / "tests" / name, tests)
    for name in ("a/1.bin", "a/2.bin", "b/1.bin", "c/1.bin"):
        (shared / name).parent.mkdir(parents=True, exist_ok=True)
        (shared / name).touch()

    def go(
        *args: str, covered: str = '"a/*.bin", "b/*.bin"', b: str = "pass", absent: bool = False
    ) -> subprocess.CompletedProcess[str]:
        (tests / "golden.toml").write_text(f"covered = [{covered}]")
        (tests / "test_it.py").write_text(TESTS.format(b=b))
        env = {
            **os.environ,
            "ASAP_EVAL_SHARED": str(tmp_path / "nowhere" if absent else shared),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # they take longer to load than these tests
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist", *args]
        return subprocess.run(command, cwd=tests.parent, env=env, capture_output=True, text=True)

    return go


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one", "two"])
def test_all_ran(run: Run, processes: tuple[str, ...]) -> None:
    done = run("--golden-complete", *processes)
    assert done.returncode == 0, done.stdout
    assert "golden: 3 ran of 3 tests; 3 covered of 3 files" in done.stdout
    assert "4 passed" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one", "two"])
def test_a_skipped_one_fails_where_completeness_is_asked_for(
    run: Run, processes: tuple[str, ...]
) -> None:
    done = run("--golden-complete", *processes, b='pytest.skip("no reason")')
    assert done.returncode == 1
    assert "golden: 2 ran of 3 tests; 2 covered of 3 files" in done.stdout
    assert "did not run or is not covered: tests/test_it.py::test_b" in done.stdout
    assert run(b='pytest.skip("no reason")').returncode == 0


def test_a_listed_file_that_no_test_covers_fails(run: Run) -> None:
    done = run("--golden-complete", covered='"a/*.bin", "c/*.bin"')
    assert done.returncode == 1
    assert "did not run or is not covered: c/1.bin" in done.stdout


def test_open_files_are_counted_and_must_not_be_covered(run: Run) -> None:
    done = run("--golden-complete", covered='"a/*.bin", "b/*.bin"]\nopen = ["c/*.bin"')
    assert done.returncode == 0, done.stdout
    assert "3 covered of 3 files; 1 open" in done.stdout
    done = run("--golden-complete", covered='"b/*.bin"]\nopen = ["a/1.bin"')
    assert done.returncode == 1
    assert "golden: is listed as open and covered: a/1.bin" in done.stdout


@pytest.mark.parametrize("folder", ["image", "vlm"])
def test_every_golden_file_is_covered_or_listed_as_open(folder: str, shared: Path) -> None:
    listed = read_toml(ROOT / "tests" / "golden.toml")
    known = [path for group in listed.values() for one in group for path in shared.glob(one)]
    files = {path for path in (shared / "golden" / folder).rglob("*.*") if path.is_file()}
    assert {path.name for path in files - set(known)} <= {"README.md"}


def test_a_deselected_test_covers_nothing(run: Run) -> None:
    assert run("--golden-complete", "-k", "not test_b").returncode == 1


def test_without_the_data_they_are_skipped_with_the_reason(run: Run) -> None:
    done = run("--golden-complete", absent=True)
    assert done.returncode == 0
    assert "golden: none of 3 tests ran: no shared data at" in done.stdout
    assert "1 passed, 3 skipped" in done.stdout.splitlines()[-1]


def test_a_pattern_that_matches_nothing_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shared" / "b" / "1.bin").unlink()
    done = run()
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "golden patterns match no file: ['b/1.bin']" in done.stderr + done.stdout
