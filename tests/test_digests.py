"""A large file is hashed once, and again after whatever could have changed it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from asap_eval.files import digests
from asap_eval.files.digests import file_sha256, files_sha256


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read; every file is worth keeping, and lies still at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "WORTH", 1)
    monkeypatch.setattr(digests, "SETTLED", -1)
    read, found = digests._read, []

    def counted(path: Path) -> str:
        found.append(path)
        return read(path)

    monkeypatch.setattr(digests, "_read", counted)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"abc")
    return path


def of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_once_for_every_name_of_a_file(file: Path, reads: list[Path]) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    assert [file_sha256(path) for path in (file, file, link)] == [of(b"abc")] * 3
    assert len(reads) == 1


def test_a_file_under_another_name_is_another(file: Path, reads: list[Path]) -> None:
    copy = file.with_name("copy")
    copy.write_bytes(b"abd")
    assert (file_sha256(file), file_sha256(copy)) == (of(b"abc"), of(b"abd"))


@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_an_equal_date_and_size_hide_nothing(how: str, file: Path, reads: list[Path]) -> None:
    """As rsync and tar do it: the new content comes with the old content's date."""
    file_sha256(file)
    before = file.stat()
    time.sleep(0.02)  # more than a tick of the file system's clock
    target = file if how == "in place" else file.with_name("new")
    target.write_bytes(b"xyz")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(target, file)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file_sha256(file) == of(b"xyz")


def test_a_file_just_written_is_not_kept(
    file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED", 60.0)
    file_sha256(file)
    file_sha256(file)
    assert len(reads) == 2


def test_a_file_written_while_it_is_read_is_not_kept(
    file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = digests._read

    def disturbed(path: Path) -> str:
        found = read(path)
        path.write_bytes(b"other")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(digests, "_read", disturbed)
        file_sha256(file)
    assert file_sha256(file) == of(b"other")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"stamp": 1}'])
def test_a_damaged_entry_is_made_again(damage: str, file: Path, reads: list[Path]) -> None:
    file_sha256(file)
    (entry,) = (digests.cache_folder() / "digests").glob("*.json")
    entry.write_text(damage)
    assert file_sha256(file) == of(b"abc")
    assert file_sha256(file) == of(b"abc")
    assert len(reads) == 2


def test_without_a_place_to_keep_it_a_file_is_read_each_time(
    file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # no folder
    assert file_sha256(file) == file_sha256(file) == of(b"abc")
    assert len(reads) == 2


def test_small_files_leave_nothing_behind(
    file: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "WORTH", 4)
    file_sha256(file)
    assert not digests.cache_folder().exists()


def test_several_files_are_names_and_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    whole = files_sha256([first, second])
    assert whole == files_sha256([second, first])
    first.write_bytes(b"2")
    second.write_bytes(b"1")
    assert files_sha256([first, second]) != whole


def test_a_worker_takes_the_word_of_who_began(
    file: Path, tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_found", {})
    monkeypatch.setattr(digests, "_told", {})
    digest = file_sha256(file)
    told = json.loads(json.dumps(digests.found()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another home"))
    digests.trust(told)
    reads.clear()
    assert file_sha256(file) == digest == of(b"abc")
    assert not reads
    file.write_bytes(b"abd")  # as large, but at another time
    assert file_sha256(file) == of(b"abd")
    assert reads
