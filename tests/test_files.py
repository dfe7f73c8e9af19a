"""Files are put in place whole or not at all, through errors, kills and full disks."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from asap_eval.files.placed import part_of, placed, put
from asap_eval.files.tensors import save_tensors
from asap_eval.models.video_head import Head, save_head
from asap_eval.record.files import write_json
from asap_eval.train.method.state import State

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX modes, limits and signals")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def replace_by(path: Path, text: str) -> None:
    with placed(path) as part:
        part.write_text(text)


# One file


@pytest.mark.parametrize("place", ["file.txt", "new/folders/file.txt", "x" * 255, "é" * 127])
def test_a_file_is_put_in_place_and_nothing_beside_it(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    replace_by(path, "first")
    replace_by(path, "second")
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_the_part_is_hidden_and_names_its_process(old: Path) -> None:
    with placed(old) as part:
        assert part.parent == old.parent
        assert re.fullmatch(rf"\.file\.txt\.{os.getpid()}-\w+\.part", part.name)
        part.write_text("new")
        assert old.read_text() == "old"


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()])
@pytest.mark.parametrize("begun", [True, False])
def test_an_error_leaves_the_old_file_alone(old: Path, error: BaseException, begun: bool) -> None:
    def write() -> None:
        with placed(old) as part:
            if begun:
                part.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_a_part_that_nobody_wrote_is_an_error(old: Path) -> None:
    with pytest.raises(FileNotFoundError), placed(old):
        pass
    assert old.read_text() == "old"


def test_it_is_on_the_disk_before_it_has_its_name(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a machine that stops could leave the name on an empty file."""
    done: list[str] = []
    sync, rename = os.fsync, os.replace

    def synced(opened: int) -> None:
        done.append("folder" if os.path.isdir(opened) else old.read_text())
        sync(opened)

    def renamed(part: Path, path: Path) -> None:
        done.append("renamed")
        rename(part, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    replace_by(old, "new")
    assert done == ["old", "renamed", "folder"]


def test_a_folder_that_cannot_be_synced_does_not_matter(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def files_only(opened: int) -> None:
        if os.path.isdir(opened):
            raise OSError(22, "Invalid argument")
        sync(opened)

    monkeypatch.setattr(os, "fsync", files_only)
    replace_by(old, "new")
    assert old.read_text() == "new"


@POSIX
def test_folders_and_devices_are_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, error in ((tmp_path, IsADirectoryError), (pipe, FileExistsError)):
        with pytest.raises(error, match=re.escape(str(path))), placed(path):
            pytest.fail("nothing should be written")
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_parent_that_is_a_file_is_said(old: Path) -> None:
    with pytest.raises(OSError, match=r"file\.txt"), placed(old / "below"):
        pytest.fail("nothing should be written")
    assert old.read_text() == "old"


@POSIX
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_mode_is_what_umask_leaves(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        replace_by(tmp_path / "text", "x")
        save_tensors({"a": torch.zeros(1)}, tmp_path / "tensors", {})
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [mode, mode]


def test_a_name_may_follow_from_the_content(old: Path) -> None:
    with part_of(old.parent / "key") as part:
        part.write_text("new")
        put(part, old.parent / f"key-{part.stat().st_size}")
    with part_of(old.parent / "key") as part:
        part.write_text("given up")
    assert sorted(path.name for path in old.parent.iterdir()) == ["file.txt", "key-3"]


def test_of_writers_at_once_one_is_the_last(old: Path) -> None:
    """Threads have one process number, as processes of two containers may."""
    texts = {"old", *(str(number) * 100_000 for number in range(4))}
    wrong: list[BaseException] = []

    def write(text: str) -> None:
        try:
            for _ in range(10):
                replace_by(old, text)
                assert old.read_text() in texts
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts - {"old"}]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert old.read_text() in texts - {"old"}
    assert list(old.parent.iterdir()) == [old]


KILLED = """
import runpy, sys, time
from pathlib import Path

with runpy.run_path(sys.argv[1])["placed"](Path(sys.argv[2])) as part:
    part.write_text("new")
    print("written", flush=True)
    time.sleep(60)
"""


@POSIX
def test_killed_before_the_renaming_the_old_file_is_whole(old: Path) -> None:
    command = [sys.executable, "-c", KILLED, inspect.getfile(put), str(old)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert old.read_text() == "old"
    (left,) = set(old.parent.iterdir()) - {old}
    assert left.name.startswith(".")
    replace_by(old, "newer")
    assert old.read_text() == "newer"


# Files of tensors


def test_tensors_come_back_with_their_notes(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    given = {
        "whole": base,
        "same": base,
        "turned": base.T,
        "row": base[1],
        "grown": torch.ones(1, 3).expand(2, 3),
        "learned": nn.Parameter(torch.zeros(2, dtype=torch.half)),
    }
    path = tmp_path / "new" / "a.safetensors"
    save_tensors(given, path, {"said": "so"})
    found = load_file(path)
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], given[name].detach()) for name in given)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"said": "so"}


@contextmanager
def largest(size: int) -> Iterator[None]:
    """Files of this process can have ``size`` bytes: more ends as on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _large_state(path: Path) -> None:
    modules = nn.ModuleDict({"1": nn.Linear(1024, 1024)})
    State(modules, torch.optim.AdamW(modules.parameters())).save(path, "x")


@POSIX
@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_tensors({"a": torch.zeros(1 << 20)}, path, {}),
        lambda path: save_head(Head(torch.zeros(1024, 1024), torch.zeros(1024), None, {}), path),
        _large_state,
        lambda path: write_json(path, ["x" * (1 << 21)]),
    ],
    ids=["tensors", "head", "state of a training", "record"],
)
def test_a_full_disk_is_an_os_error(old: Path, write: Callable[[Path], None]) -> None:
    """As the runner explains it; safetensors and torch say it in errors of their own."""
    with largest(1 << 20), pytest.raises(OSError, match="File too large"):
        write(old)
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]
