"""Images in a fixed order, with or without labels, and their batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from asap_eval.data.address import open_store
from asap_eval.data.batches import batches_of, consecutive
from asap_eval.data.classes import Classes
from asap_eval.data.decoded import Kept, Pass, PictureCache, Sources
from asap_eval.data.decoding import decode
from asap_eval.data.listed import trusted
from asap_eval.data.stores import Store
from asap_eval.data.subset import Sample, check_sample, subset
from asap_eval.data.transforms import PictureSteps, Scaling, Transform, split
from asap_eval.errors import BadValueError, DataError, message
from asap_eval.models.spec import Labels
from asap_eval.models.zoo import LoadedModel

T = TypeVar("T")


@dataclass(frozen=True)
class ImageSet:
    """Some images of a store, in its order.

    Attributes:
        store: all images. places: those of this set, ascending. sample: how they were chosen.
        upright: whether they are turned as their EXIF orientation says, for a mask or a person's
            eye. timm's evaluation, and so classification, ignores it.
        cache: where its decoded pictures are kept; None = nowhere.
    """

    store: Store
    places: Sequence[int]
    sample: Sample = "first"
    upright: bool = False
    cache: PictureCache | None = None

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def ids(self) -> list[str]:
        """Path relative to the data folder, or index in the data set."""
        return [self.store.ids[place] for place in self.places]

    @cached_property
    def labels(self) -> list[int | None]:
        """Class numbers of the model; None = no label."""
        return [self.store.labels[place] for place in self.places]

    @property
    def notes(self) -> Sequence[str]:
        """What a reader has to know of them, a line each."""
        return self.store.notes

    @cached_property
    def digest(self) -> str:
        """sha256 over ids and labels, in order."""
        digest = hashlib.sha256()
        for pair in zip(self.ids, self.labels, strict=True):
            digest.update(json.dumps(pair).encode())
        return digest.hexdigest()

    @property
    def commits(self) -> Mapping[str, str]:
        """Commits of the hub's repositories that the images are from, by their names."""
        return self.store.commits

    def content(self) -> str:
        """Hash of the encoded images, in order; see `Store.content`."""
        return self.store.content(self.places)

    def check(self, start: int, stop: int) -> None:
        """Raise `DataError` where images ``start`` to ``stop`` are others than `content` was said
        of; see `Store.check`."""
        self.store.check(self.places[start:stop])

    def load(self, index: int) -> Image.Image:
        """Decode one image of this set to RGB.

        Raises:
            DataError: it is missing, truncated or no image.
        """
        try:
            return decode(self.store.read(self.places[index]), upright=self.upright)
        except MemoryError:
            raise
        except Exception as error:  # where a store lies apart, reading it raises many kinds
            raise DataError(f"{self.ids[index]} cannot be read: {message(error)}") from error

    def calibration(self, count: int) -> tuple[ImageSet, bool]:
        """Images to search a knob on, and whether none of them is in this set.

        They come after this set (``spread``: evenly from the images left between). Where fewer
        than ``count`` are left, those few; where none is left, ``count`` images of this set.
        """
        if count < 1:
            raise BadValueError(f"{count} calibration images: give a number >= 1.")
        if self.sample == "first":
            left: Sequence[int] = range(max(self.places) + 1, len(self.store.ids))
            chosen = subset(left, count, "first")
        else:
            taken = set(self.places)
            left = [place for place in range(len(self.store.ids)) if place not in taken]
            chosen = subset(left, count, "spread")
        if chosen:
            return replace(self, places=chosen), True
        return replace(self, places=subset(self.places, count, "spread")), False


def images_of(
    loaded: LoadedModel,
    data: str,
    *,
    limit: int | None,
    sample: Sample,
    label_file: str | None = None,
) -> ImageSet:
    """`open_images` with all that a loaded model says of its classes."""
    return open_images(
        data,
        classes=loaded.classes,
        labels=loaded.labels,
        names=loaded.class_names,
        label_file=label_file,
        limit=limit,
        sample=sample,
    )


def open_images(
    data: str,
    *,
    classes: int,
    labels: Labels,
    names: Sequence[str] | None = None,
    label_file: str | None = None,
    limit: int | None = None,
    sample: Sample = "first",
) -> ImageSet:
    """The images an address means, labelled with the model's class numbers.

    Args:
        data: a folder (class folders; ``val`` inside it), also in a ``.zip``, a parquet file or
            folder, ``hfds/<data set>[:<config>][@<split>]``, or
            ``wds/<folder or pattern of shards>[:<kind of the picture's files>][@<split>]``.
        classes, labels, names: of the `LoadedModel` (names: its ``class_names``).
        label_file: says the classes of images that lie flat; see `open_store`.
        limit: number of images, ``None`` = all. sample: the first ones, or evenly over all.

    Raises:
        BadValueError: limit below 1 or above what is there, or the model has no classes.
        DataError: no such data, no images, or classes that do not fit the model.
    """
    if labels == "none" or classes < 1:
        raise BadValueError(
            "The model has no classifier, so its answers cannot be scored. Choose a model with "
            "classes, or tell what they are with model.labels=wnid or model.labels=folders. A CLIP "
            "tower becomes a classifier with model.head=<file> (asap-eval head makes it)."
        )
    own = Classes(classes, labels, names)
    return chosen_images(
        lambda: open_store(data, own, label_file), data, limit=limit, sample=sample
    )


def chosen_images(
    opened: Callable[[], Store],
    data: str,
    *,
    limit: int | None,
    sample: Sample,
    what: str = "images",
    upright: bool = False,
) -> ImageSet:
    """The first ``limit`` images of a store, or as many spread over all; None = all.

    Args:
        opened: opens the store, once the choice is known to be possible. what: its samples are.
        upright: see `ImageSet`.

    Raises:
        BadValueError: limit below 1 or above what is there. UnknownNameError: no such ``sample``.
    """
    if limit is not None and limit < 1:
        raise BadValueError(
            f"limit={limit}: give a number of {what} >= 1, or leave it out for all."
        )
    check_sample(sample)
    store = trusted(data) or opened()
    count = len(store.ids)
    if limit is not None and limit > count:
        raise BadValueError(
            f"limit={limit}, but data={data} has {count} {what}. Use limit={count} or leave it out."
        )
    every = range(count)
    if limit is None:
        return ImageSet(store, every, sample, upright)
    return ImageSet(store, subset(every, limit, sample), sample, upright)


@dataclass(frozen=True)
class ImageBatch:
    """Images ``indices`` of a set, in order.

    Attributes:
        indices, ids, labels: of all images of the batch, unreadable ones included.
        images: ``[b, 3, H, W]`` of the readable ones, in order, as they were decoded: bytes that
            ``scaling`` makes numbers of, or the numbers. b = 0 where none is readable.
        failures: what is wrong with each of the others, by index.
        beside: ``[b, ...]`` what goes with each readable image (its mask); None = nothing.
        scaling: None = the images are what the model takes.
    """

    indices: list[int]
    ids: list[str]
    labels: list[int | None]
    images: Tensor
    failures: dict[int, str]
    beside: Tensor | None = None
    scaling: Scaling | None = None

    @property
    def pixels(self) -> Tensor:
        """``[b, 3, H, W]`` fp32 as the model takes them, where the images are; made anew."""
        return self.images if self.scaling is None else self.scaling(self.images)

    def on(self, device: torch.device) -> ImageBatch:
        """The same batch with its images on a device; a copy from pinned memory is queued there,
        and not waited for."""
        return replace(self, images=self.images.to(device, non_blocking=True))

    def pin_memory(self) -> ImageBatch:
        """The same batch in memory that a GPU can copy from by itself; `DataLoader` calls this."""
        return replace(self, images=self.images.pin_memory())

    @property
    def readable(self) -> list[str]:
        """Ids of the readable images, in order."""
        return self.of_readable(self.ids)

    def of_readable(self, values: Sequence[T]) -> list[T]:
        """The readable images' values, of one value for every image."""
        return [v for at, v in zip(self.indices, values, strict=True) if at not in self.failures]


Item = tuple[int, "tuple[Tensor, ...] | str"]
"""Index, and decoded image with what goes beside it, or the message of its failure."""


@dataclass(frozen=True)
class _Decoded(Dataset[Item]):
    """Images as decoding processes make them.

    Attributes:
        transform: what they run of the model's. kept: pictures that need not be decoded.
    """

    images: ImageSet
    transform: Transform
    beside: Callable[[int], Tensor] | None
    kept: Kept | None

    def __getitem__(self, index: int) -> Item:
        try:
            picture = self._picture(index)
            extra = () if self.beside is None else (self.beside(index),)
        except DataError as error:
            return index, str(error)
        return index, (picture, *extra)

    def _picture(self, index: int) -> Tensor:
        if self.kept is None:
            return self.transform(self.images.load(index))
        if (picture := self.kept.read(index)) is not None:
            return picture
        try:
            picture = self.transform(self.images.load(index))
        except DataError:
            self.kept.write(index, None)
            raise
        self.kept.write(index, picture)
        return picture


_NONE = torch.empty(0, 3, 0, 0)
"""Images of a batch in which none can be read."""


@dataclass(frozen=True)
class _Collate:
    images: ImageSet
    scaling: Scaling | None

    def __call__(self, items: list[Item]) -> ImageBatch:
        indices = [index for index, _ in items]
        found = [item for _, item in items if not isinstance(item, str)]
        images, *beside = [torch.stack(parts) for parts in zip(*found, strict=True)] or [_NONE]
        return ImageBatch(
            indices=indices,
            ids=[self.images.ids[index] for index in indices],
            labels=[self.images.labels[index] for index in indices],
            images=images,
            failures={index: item for index, item in items if isinstance(item, str)},
            beside=beside[0] if beside else None,
            scaling=self.scaling,
        )


def image_batches(
    images: ImageSet,
    transform: Transform,
    batch_size: int,
    workers: int = 0,
    start: int = 0,
    beside: Callable[[int], Tensor] | None = None,
    *,
    pinned: bool = False,
    stop: int | None = None,
) -> Iterator[ImageBatch]:
    """Batches of consecutive images from ``start``, the same ones for any number of workers.

    An unreadable image is listed in its batch and never raised.

    Args:
        beside: makes what goes with image ``index`` into ``batch.beside``; a `DataError` there
            makes the image unreadable.
        pinned: see `batches_of`. stop: where the last batch ends, None = with the images.
    """
    if batch_size < 1:
        raise BadValueError(f"batch_size={batch_size}: give a number of images >= 1.")
    if not 0 <= start <= len(images):
        raise BadValueError(f"start={start} is outside the {len(images)} images.")
    decoding, scaling = split(transform)
    stop = len(images) if stop is None else stop
    opened = _kept(images, decoding, start, stop)
    images = replace(images, cache=None)  # what travels to the processes needs no more than `kept`
    found = batches_of(
        _Decoded(images, decoding, beside, None if opened is None else opened.kept),
        consecutive(start, stop, batch_size),
        workers,
        _Collate(images, scaling),
        pinned=pinned,
    )
    return found if opened is None else _to_the_end(found, opened)


def _kept(images: ImageSet, decoding: Transform, start: int, stop: int) -> Pass | None:
    """The kept pictures of a set, where its transform leaves pictures to keep."""
    if images.cache is None or not isinstance(decoding, PictureSteps):
        return None

    def content() -> str:
        images.check(start, stop)  # a listing says what was, and not what is
        return images.content()

    sources = Sources(images.ids, content, images.upright)
    return images.cache.open(sources, decoding, start, stop)


def _to_the_end(batches: Iterator[ImageBatch], opened: Pass) -> Iterator[ImageBatch]:
    yield from batches
    opened.end()
