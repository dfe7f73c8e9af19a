"""The listing that workers read in place of the data: what it gives, and which files are opened."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import picture_folder

from asap_eval.data import decoded, images, listed
from asap_eval.data.address import open_store
from asap_eval.data.decoded import PictureCache
from asap_eval.data.images import ImageSet, image_batches, images_of
from asap_eval.data.listed import ListedStore, trusted, trusting, write_listing
from asap_eval.errors import DataError
from asap_eval.launch.head import Asked, spread
from asap_eval.launch.launch import Launch
from asap_eval.models import LoadedModel, load_model
from asap_eval.record import Job
from asap_eval.runner import Outcome, run
from asap_eval.runner.piece import Opening

FILES = 4


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("test_vit", weights="random")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("listed") / "pictures")


def shards(pictures: Path, root: Path) -> str:
    """Four WebDataset shards of three pictures."""
    root.mkdir()
    files = sorted(pictures.rglob("*.png"))
    for number in range(FILES):
        with tarfile.open(root / f"val-{number:02d}.tar", "w") as tar:
            for at, file in enumerate(files[number * 3 : number * 3 + 3]):
                for kind, content in (("png", file.read_bytes()), ("cls", b"7")):
                    member = tarfile.TarInfo(f"{number}{at}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"wds/{root}/val-{{00..03}}.tar"


def parquet(pictures: Path, root: Path) -> str:
    """Four parquet files of three pictures, in row groups of two."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir()
    files = sorted(pictures.rglob("*.png"))
    for number in range(FILES):
        chosen = files[number * 3 : number * 3 + 3]
        table = pa.table(
            {
                "image": [{"bytes": file.read_bytes(), "path": file.name} for file in chosen],
                "label": [7] * len(chosen),
            }
        )
        pq.write_table(table, root / f"val-{number:05d}-of-00004.parquet", row_group_size=2)
    return str(root)


def folder(pictures: Path, root: Path) -> str:
    return str(pictures)


KINDS = {"folder": folder, "shards": shards, "parquet": parquet}


@contextmanager
def opened_files(monkeypatch: pytest.MonkeyPatch, below: Path) -> Iterator[set[str]]:
    """Names of the data's files that are opened or hashed, and of its folders that are listed."""
    found: set[str] = set()
    real_open, real_scan = io.open, os.scandir

    def note(path: Any) -> None:
        if isinstance(path, (str, os.PathLike)) and str(below) in str(path):
            found.add(Path(path).name)

    def opening(path: Any, *args: Any, **kwargs: Any) -> Any:
        note(path)
        return real_open(path, *args, **kwargs)

    def scanning(path: Any = ".") -> Any:
        note(path)
        return real_scan(path)

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", opening)
        patched.setattr(io, "open", opening)
        patched.setattr(os, "scandir", scanning)
        import pyarrow.parquet as pq

        real = pq.ParquetFile

        def parquet_file(source: Any, *args: Any, **kwargs: Any) -> Any:
            note(source)
            return real(source, *args, **kwargs)

        patched.setattr(pq, "ParquetFile", parquet_file)
        yield found


def both(
    kind: str, pictures: Path, tmp_path: Path, loaded: LoadedModel
) -> tuple[str, ImageSet, Path]:
    """Address, the images as the head opens them, and the listing it writes."""
    data = KINDS[kind](pictures, tmp_path / "data")
    head = images_of(loaded, data, limit=None, sample="first")
    listing = tmp_path / "listing.json"
    write_listing(listing, data, head.store, [(head.places, head.content())])
    return data, head, listing


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_reads_what_the_head_reads_from_the_files_of_its_piece(
    kind: str,
    pictures: Path,
    tmp_path: Path,
    loaded: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, head, listing = both(kind, pictures, tmp_path, loaded)
    below = pictures if kind == "folder" else tmp_path / "data"
    said = head.digest, head.content()
    with opened_files(monkeypatch, below) as found:
        with trusting(listing):
            worker = images_of(loaded, data, limit=None, sample="first")
        assert isinstance(worker.store, ListedStore)
        assert (worker.ids, worker.labels, worker.notes) == (head.ids, head.labels, head.notes)
        assert (worker.digest, worker.content()) == said
        worker.check(3, 6)
        read = [worker.store.read(place) for place in range(3, 6)]
    # Three of twelve files, or one shard of four.
    assert len(found) == (3 if kind == "folder" else 1)
    assert read == [head.store.read(place) for place in range(3, 6)]
    assert torch.equal(loaded.transform(worker.load(11)), loaded.transform(head.load(11)))


def test_another_address_is_opened_as_usual(
    pictures: Path, tmp_path: Path, loaded: LoadedModel
) -> None:
    _, _, listing = both("shards", pictures, tmp_path, loaded)
    with trusting(listing):
        found = images_of(loaded, str(pictures), limit=None, sample="first")
    assert not isinstance(found.store, ListedStore)


@pytest.mark.parametrize("change", ["written", "gone"])
def test_a_changed_file_is_named_by_the_piece_that_reads_it(
    change: str, pictures: Path, tmp_path: Path, loaded: LoadedModel
) -> None:
    data, _, listing = both("shards", pictures, tmp_path, loaded)
    with trusting(listing):
        worker = images_of(loaded, data, limit=None, sample="first")
    shard = tmp_path / "data" / "val-01.tar"
    if change == "written":
        os.utime(shard, ns=(1, 1))
    else:
        shard.unlink()
    worker.check(0, 3)
    worker.check(6, 12)
    with pytest.raises(DataError, match=r"val-01\.tar"):
        worker.check(3, 6)


@pytest.mark.parametrize("changes", [True, False])
def test_pictures_of_changed_files_are_never_kept(
    changes: bool,
    pictures: Path,
    tmp_path: Path,
    loaded: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A listing says what the files held, and not whether they still do."""
    data, head, listing = both("shards", pictures, tmp_path, loaded)
    monkeypatch.setattr(decoded, "WORTH", 0)
    loads: list[int] = []
    load = ImageSet.load
    monkeypatch.setattr(ImageSet, "load", lambda self, at: (loads.append(at), load(self, at))[1])
    cache = PictureCache(tmp_path / "kept", lambda _: None)
    with trusting(listing):
        worker = replace(images_of(loaded, data, limit=None, sample="first"), cache=cache)
    for number, _ in enumerate(image_batches(worker, loaded.transform, 4)):
        if changes and number == 1:
            os.utime(tmp_path / "data" / "val-01.tar", ns=(1, 1))
    loads.clear()
    list(image_batches(replace(head, cache=cache), loaded.transform, 4))
    assert loads == (list(range(12)) if changes else [])
    if changes:
        with pytest.raises(DataError, match=r"val-01\.tar"):
            image_batches(worker, loaded.transform, 4)


def test_rows_of_a_table_look_at_the_files_once(
    pictures: Path, tmp_path: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, head, listing = both("folder", pictures, tmp_path, loaded)
    monkeypatch.setattr(type(head.store), "located", lambda _: pytest.fail("looked again"))
    write_listing(tmp_path / "other", data, head.store, [(head.places, head.content())])
    assert (tmp_path / "other").read_bytes() == listing.read_bytes()


def test_a_listing_is_there_all_the_time_it_is_written_again(
    pictures: Path, tmp_path: Path, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of an earlier command may be about to read it."""
    data, head, listing = both("folder", pictures, tmp_path, loaded)
    located = type(head.store).located
    there: list[bool] = []

    def looking(self: Any) -> Any:
        there.append(listing.is_file())
        return located(self)

    monkeypatch.setattr(type(head.store), "located", looking)
    listed._written.clear()
    write_listing(listing, data, head.store, [(head.places, head.content())])
    assert there == [True]
    with trusting(tmp_path / "gone"):
        assert trusted(data) is None


def test_what_changed_before_the_listing_was_written_is_not_listed(
    pictures: Path, tmp_path: Path, loaded: LoadedModel
) -> None:
    data, head, listing = both("folder", pictures, tmp_path, loaded)
    assert listing.exists()
    write_listing(listing, data, head.store, [(head.places, "another hash")])
    assert not listing.exists()


def test_workers_of_a_job_look_for_no_data(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head opens the store once; the job and its baseline are computed from its listing."""
    calls: list[str] = []

    def opening(data: str, *args: Any) -> Any:
        calls.append(data)
        return open_store(data, *args)

    monkeypatch.setattr(images, "open_store", opening)
    job = Job("test_vit", weights="random", data=str(pictures), batch_size=2, method="mass", k=0.5)
    asked = Asked(job, tmp_path / "spread", False, Opening(cache="off"), {}, None)
    (found,) = spread([asked], Launch("join", piece=4), set())
    assert isinstance(found, Outcome), found
    assert calls == [str(pictures)]
    alone = run(job, results=tmp_path / "alone", cache="off")
    assert (alone.record.key, alone.record.paired) == (found.record.key, found.record.paired)
    rows = [one.path.with_name(str(one.record.samples)).read_bytes() for one in (alone, found)]
    assert rows[0] == rows[1]
