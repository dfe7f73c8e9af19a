"""Processes that load samples, however they are started: what travels to them has to pickle."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clips
import pytest
from pictures import picture_folder
from test_saliency import photographs

from asap_eval.bench.bench import build_bench
from asap_eval.data import batches
from asap_eval.data.questions.pictures import open_pictures
from asap_eval.data.questions.question_set import open_questions, question_batches
from asap_eval.data.questions.tasks import TASKS, chosen
from asap_eval.data.videos.listing import list_videos
from asap_eval.data.videos.loader import video_batches
from asap_eval.data.videos.sampling import Sampling
from asap_eval.data.videos.store import VideoStore
from asap_eval.models import load_model


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What a loader would send to its processes, pickled; nothing is loaded."""
    found: list[bytes] = []

    class Sending:
        def __init__(self, dataset: Any, *, collate_fn: Any, **_: Any) -> None:
            found.append(pickle.dumps((dataset, collate_fn)))
            self.first = dataset[0], pickle.loads(found[-1])[0][0]

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    monkeypatch.setattr(batches, "DataLoader", Sending)
    return found


@pytest.mark.parametrize("bench", ["imagenet", "walk", "keepmaps", "saliency"])
def test_images_travel(bench: str, tmp_path: Path, sent: list[bytes]) -> None:
    data = tmp_path / "data"
    if bench == "saliency":
        photographs(data, [(60, 50)] * 2)
    else:
        picture_folder(data, each=1)
    loaded, made = load_model("test_vit", weights="random"), build_bench(bench)
    samples = made.open(str(data), loaded, limit=None, sample="first")
    list(made.batches(loaded, samples, batch_size=2, workers=2))
    assert len(sent) == 1


def test_videos_travel(tmp_path: Path, sent: list[bytes]) -> None:
    clips.folder(tmp_path / "val", 1)
    listing = list_videos(str(tmp_path), "val", whole=True)
    store = VideoStore(listing, listing.classes, str(tmp_path))
    transform = load_model("digits_vit").transform
    list(video_batches(store, [0, 1], Sampling(2), transform, 4, 2, 0))
    assert len(sent) == 1


@pytest.mark.parametrize("task", TASKS)
def test_questions_travel(task: str, questions: Path, sent: list[bytes]) -> None:
    found = open_questions(chosen([task]), str(questions), limit=None, sample="first")
    list(question_batches(found, 4, workers=2))
    assert len(sent) == 1


def test_pictures_with_a_question_travel(tmp_path: Path, sent: list[bytes]) -> None:
    picture_folder(tmp_path / "data", each=1)
    found = open_pictures(
        str(tmp_path / "data"), "What is it?", limit=None, sample="first", new_tokens=None
    )
    list(question_batches(found, 2, workers=2))
    assert len(sent) == 1


def test_questions_arrive(questions: Path) -> None:
    """The one real start of a process that is no fork: it imports torch, which takes seconds."""
    found = open_questions(chosen(["gqa"]), str(questions), limit=4, sample="first")
    here = [q.id for batch in question_batches(found, 2) for q in batch.questions]
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        arrived = list(question_batches(found, 2, workers=1))
    finally:
        multiprocessing.set_start_method(usual, force=True)
    there = [q for batch in arrived for q in batch.questions]
    assert [q.id for q in there] == here
    assert all(q.picture is not None for q in there)
