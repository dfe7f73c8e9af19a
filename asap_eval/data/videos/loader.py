"""Frames of many videos in one batch, decoded in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from asap_eval.data.batches import batches_of, consecutive
from asap_eval.data.videos.sampling import Sampling, view_of
from asap_eval.data.videos.store import VideoStore
from asap_eval.errors import BadValueError, DataError


@dataclass(frozen=True)
class VideoBatch:
    """Videos ``indices`` of a set, in order.

    Attributes:
        indices, ids, labels: of all videos of the batch, unreadable ones included.
        pixels: ``[f, 3, H, W]`` fp32 frames of the readable ones, one video after another: its
            clips, of each its views, of each its frames. frame_ids: of each frame.
        distinct: different frames of each readable video. failures: what is wrong with the others,
            by index. per_pass: frames that go through the model at once.
    """

    indices: list[int]
    ids: list[str]
    labels: list[int | None]
    pixels: Tensor
    frame_ids: list[str]
    distinct: list[int]
    failures: dict[int, str]
    per_pass: int

    def passes(self) -> Iterator[tuple[Tensor, list[str]]]:
        """Frames and their ids, at most ``per_pass`` at once."""
        for at in range(0, len(self.pixels), self.per_pass):
            part = slice(at, at + self.per_pass)
            yield self.pixels[part], self.frame_ids[part]


def videos_per_batch(sampling: Sampling, batch_size: int) -> int:
    """How many videos fill a batch of frames: one, even where it has more than ``batch_size``."""
    return max(1, batch_size // sampling.per_video)


@dataclass(frozen=True)
class _Item:
    """One video: its frames and their ids, or what is wrong with it."""

    index: int
    pixels: Tensor | None
    frame_ids: list[str]
    distinct: int
    failure: str | None


class _Decoded(Dataset[_Item]):
    def __init__(
        self,
        store: VideoStore,
        places: Sequence[int],
        sampling: Sampling,
        transform: Callable[[Image.Image], Tensor],
    ) -> None:
        self.store, self.places = store, places
        self.sampling, self.transform = sampling, transform

    def __getitem__(self, index: int) -> _Item:
        place, views = self.places[index], self.sampling.views
        try:
            frames = self.store.frames(place, self.sampling.shares)
        except DataError as error:
            return _Item(index, None, [], 0, str(error))
        pixels, ids = [], []
        for clip in range(self.sampling.clips):
            for view in range(views):
                for at in self.sampling.clip(clip):
                    pixels.append(self.transform(view_of(frames[at].image, view, views)))
                    ids.append(frame_id(self.store.ids[place], frames[at].number, view))
        return _Item(index, torch.stack(pixels), ids, len({f.number for f in frames}), None)


def frame_id(video: str, number: int, view: int) -> str:
    """Id of a frame: seeds of random choices derive from it, so one frame has one id."""
    return f"{video}#{number}" + (f"@{view}" if view else "")


@dataclass(frozen=True)
class _Collate:
    ids: Sequence[str]
    labels: Sequence[int | None]
    per_pass: int

    def __call__(self, items: list[_Item]) -> VideoBatch:
        found = [item.pixels for item in items if item.pixels is not None]
        return VideoBatch(
            indices=[item.index for item in items],
            ids=[self.ids[item.index] for item in items],
            labels=[self.labels[item.index] for item in items],
            pixels=torch.cat(found) if found else torch.empty(0, 3, 0, 0),
            frame_ids=[name for item in items for name in item.frame_ids],
            distinct=[item.distinct for item in items if item.failure is None],
            failures={item.index: item.failure for item in items if item.failure is not None},
            per_pass=self.per_pass,
        )


def video_batches(
    store: VideoStore,
    places: Sequence[int],
    sampling: Sampling,
    transform: Callable[[Image.Image], Tensor],
    batch_size: int,
    workers: int = 0,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[VideoBatch]:
    """Batches of consecutive videos from ``start``, the same ones for any number of workers.

    An unreadable video is listed in its batch and never raised.

    Args:
        places: of the videos in the store. batch_size: frames that go through the model at once.
        stop: where the last batch ends, None = with the videos.
    """
    if batch_size < 1:
        raise BadValueError(f"batch_size={batch_size}: give a number of frames >= 1.")
    ids, labels = [store.ids[at] for at in places], [store.labels[at] for at in places]
    return batches_of(
        _Decoded(store, places, sampling, transform),
        consecutive(
            start,
            len(places) if stop is None else stop,
            videos_per_batch(sampling, batch_size),
        ),
        workers,
        _Collate(ids, labels, batch_size),
    )
