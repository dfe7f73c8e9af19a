"""What data holds, as a hash: whatever names, sizes and times say."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from asap_eval.files import fingerprint
from asap_eval.files.fingerprint import BLOCK, content_of

LONG = 3 * fingerprint.APART
OLD = 10**18
"""A time long ago, in nanoseconds."""


def written(path: Path, content: bytes) -> Path:
    """A file whose times are those of every other one."""
    path.write_bytes(content)
    os.utime(path, ns=(OLD, OLD))
    return path


@pytest.fixture(params=["whole", "sampled"])
def sampled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "sampled":
        monkeypatch.setattr(fingerprint, "WHOLE", 0)
    return bool(request.param == "sampled")


@pytest.mark.usefixtures("sampled")
def test_a_copy_with_other_times_is_the_same(tmp_path: Path) -> None:
    files = [written(tmp_path / name, name.encode() * 9) for name in "ab"]
    copies = [Path(shutil.copyfile(file, f"{file}.copy")) for file in files]
    assert content_of(files) == content_of(copies)
    assert content_of(files[::-1]) != content_of(files)
    assert content_of(files[:1]) != content_of(files)


@pytest.mark.usefixtures("sampled")
def test_a_file_written_again_with_its_size_and_time_is_another(tmp_path: Path) -> None:
    file = written(tmp_path / "a", b"one")
    before = content_of([file])
    for content in (b"two", b"", b"longer"):
        assert content_of([written(file, content)]) != before
    file.unlink()
    gone = content_of([file])
    assert gone != before
    assert gone != content_of([written(file, b"")])
    assert content_of([written(file, b"one")]) == before


@pytest.mark.parametrize("at", [0, BLOCK - 1, LONG // 2, LONG - 1])
def test_blocks_of_a_large_file_count(tmp_path: Path, at: int, sampled: bool) -> None:
    content = bytearray(LONG)
    before = content_of([written(tmp_path / "a", content)])
    size = fingerprint.APART  # of a part that no two blocks lie apart
    content[max(at - size, 0) : at + 1] = b"x" * (at + 1 - max(at - size, 0))
    assert content_of([written(tmp_path / "a", content)]) != before
    starts = fingerprint._starts(LONG)
    assert (starts[0], starts[-1]) == (0, LONG - BLOCK)
    assert all(b - a <= fingerprint.APART for a, b in itertools.pairwise(starts))


def test_a_settled_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    reading = fingerprint._read
    monkeypatch.setattr(fingerprint, "_read", lambda p, whole: read.append(p) or reading(p, whole))
    file = written(tmp_path / "a", b"one")
    content_of([file])
    content_of([file])
    assert read == [file] * 2  # changed just now: its times may not tell the next change
    monkeypatch.setattr(fingerprint, "SETTLED", -(10**9) * 60)
    before = content_of([file])
    assert content_of([file]) == before
    assert len(read) == 3
    assert content_of([written(file, b"two")]) != before  # its old time is put back, its ctime not
