"""Shared data beside the checkout, and the count of golden tests.

A golden test compares with files that are not part of the project: it uses the fixture ``shared``,
or names the files, ``@pytest.mark.golden("golden/image/tome/fn_*.safetensors")``, patterns relative
to the shared folder. It is skipped where that folder is absent. ``--golden-complete`` fails the run
where the folder is there and a golden test, or a file of tests/golden.toml, was left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from project import ROOT, SHARED, read_toml

from asap_eval.kernels import available, native
from asap_eval.registry import METHODS, PACKAGE

ABSENT = f"no shared data at {SHARED} (set ASAP_EVAL_SHARED to its place)"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the checkout; the test is skipped where it is absent."""
    return SHARED


@pytest.fixture
def torch_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention in torch, where results have to be another library's, bit for bit."""
    monkeypatch.setenv("ASAP_EVAL_KERNELS", "torch")


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about four drawn pictures for every task of bench=vlm, as parquet files."""
    sys.path.insert(0, str(ROOT / "examples"))
    import vlm_questions

    folder = tmp_path_factory.mktemp("questions")
    vlm_questions.write(folder, pictures=4)
    return folder


@pytest.fixture(autouse=True)
def _registry_left_alone() -> Iterator[None]:
    """A test that loads methods of others leaves none of them behind for the next one."""
    before = _of_others()
    yield
    assert _of_others() == before, "registered methods were left behind, or taken away"


def _of_others() -> dict[str, type]:
    """Methods that are not this project's, by name."""
    ours = f"{PACKAGE}."
    return {n: c for n, c in METHODS.classes.items() if not c.__module__.startswith(ours)}


def files_of(patterns: Iterable[str], root: Path = SHARED) -> set[str]:
    """Files under the shared folder that any of the patterns matches, as relative paths."""
    found = (path for pattern in patterns for path in root.glob(pattern))
    return {path.relative_to(root).as_posix() for path in found if path.is_file()}


class GoldenCount:
    """Which golden tests ran and which files they cover; also right under pytest-xdist.

    Workers attach the patterns to each report, so that the controlling process can count.
    """

    def __init__(self, complete: bool) -> None:
        self.complete = complete
        self.ran: dict[str, bool] = {}
        self.covered: set[str] = set()
        listed = read_toml(ROOT / "tests" / "golden.toml")
        self.expected = files_of(listed["covered"])
        self.open = files_of(listed.get("open", []))

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        patterns = dict(report.user_properties).get("golden")
        if patterns is None or report.when == "teardown":
            return
        ran = report.when == "call" and not report.skipped
        self.ran[report.nodeid] = ran
        if ran:
            self.covered |= files_of(patterns)

    @property
    def missing(self) -> list[str]:
        """Golden tests that did not run, listed files that none of those that ran covers, and files
        said to be open that one does cover."""
        skipped = [test for test, ran in self.ran.items() if not ran]
        wrong = (self.expected - self.covered) | (self.open & self.covered)
        return sorted(skipped) + sorted(wrong)

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        failed = self.complete and SHARED.is_dir() and self.missing
        if failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not SHARED.is_dir():
            terminalreporter.write_line(f"golden: none of {len(self.ran)} tests ran: {ABSENT}")
            return
        if self.complete:
            for name in self.missing:
                kind = (
                    "is listed as open and covered"
                    if name in self.open
                    else ("did not run or is not covered")
                )
                terminalreporter.write_line(f"golden: {kind}: {name}")
        terminalreporter.write_line(
            f"golden: {sum(self.ran.values())} ran of {len(self.ran)} tests; "
            f"{len(self.expected & self.covered)} covered of {len(self.expected)} files"
            + (f"; {len(self.open)} open" if self.open else "")
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-complete",
        action="store_true",
        help="fail where the shared data is present and a golden test did not run",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the controlling process, or the only one
        config.pluginmanager.register(GoldenCount(config.getoption("--golden-complete")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marks = list(item.iter_markers("golden"))
        if not marks and "shared" not in getattr(item, "fixturenames", ()):
            continue
        patterns = [pattern for mark in marks for pattern in mark.args]
        if not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=ABSENT))
        elif empty := [pattern for pattern in patterns if not files_of([pattern])]:
            raise pytest.UsageError(f"{item.nodeid}: golden patterns match no file: {empty}")
        item.user_properties.append(("golden", patterns))


@pytest.fixture
def _as_kernels_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without gradients and switches; a test may change the number of threads."""
    monkeypatch.delenv(native.SWITCH, raising=False)
    threads = torch.get_num_threads()
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def _compiled() -> None:
    """Skips where there is no compiled kernel, and says why."""
    there, why = available()
    if not there:
        pytest.skip(why)
