"""Videos classified by a linear head on features of their frames, as in the paper's Table 3.

A frozen image encoder sees every frame by itself, tokens reduced frame by frame; a linear head,
trained beforehand on unreduced features (``stage=train``), sees the mean over the frames of a clip.
A video's scores are the mean of the probabilities of its clips and views.

A row of a video has ``fired``, ``tokens`` and ``layer_mean`` as lists, one value per frame, and
``model_macs``, ``attention_macs`` and ``method_macs`` as means over its frames: in a record's
``macs``, ``tokens`` and ``fired`` an image is a frame. ``batch_size`` is frames; as many videos are
packed as fill it.

``analysis`` of a record: ``frames_per_video`` that went through the encoder;
``macs_per_video_g`` (``baseline``, ``mean``, ``method``) GMACs, the head included;
``short_videos`` that have fewer frames than were taken, so that some were taken twice; ``head``:
``sha256`` and what its file says of its training.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from asap_eval.bench.bench import Summary, register
from asap_eval.bench.image_model_bench import SPEED_BATCHES, ImageModelBench
from asap_eval.bench.video.rows import rows_of, summary_of
from asap_eval.bench.video.speed import full_batches, video_rates
from asap_eval.checkpoint import check_there
from asap_eval.data.images import ImageSet, chosen_images
from asap_eval.data.subset import Sample
from asap_eval.data.videos.listing import Listing, list_videos, look
from asap_eval.data.videos.loader import VideoBatch, video_batches
from asap_eval.data.videos.sampling import Sampling
from asap_eval.data.videos.store import VideoStore
from asap_eval.errors import BadValueError, DataError
from asap_eval.hosts import Geometry, geometry_of, install
from asap_eval.method import Reducer
from asap_eval.models import LoadedModel
from asap_eval.models.encoder import Feature, encoder_of, features, width_of
from asap_eval.models.video_head import Head, check_head, load_head
from asap_eval.record.journal import Row, Rows
from asap_eval.timing.speed import Pixels
from asap_eval.work.rows import work_of


@register(
    "kinetics",
    "Kinetics-400 and other labelled videos: a linear head on frozen features of frames; "
    "stage=train trains it.",
)
@dataclass
class Kinetics(ImageModelBench[VideoBatch]):
    """Top-1 and top-5 by video, paired with the unpruned model.

    Attributes:
        head: safetensors file of the head. feature: what of the encoder it reads.
        frames, clips, views: of every video, see `Sampling`. videos: folder of a CSV's files.
    """

    head: str | None = None
    feature: Feature = "pooled"
    frames: int = 8
    clips: int = 1
    views: int = 1
    videos: str | None = None

    no_training = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.frames, self.clips, self.views)

    def adapted(self, loaded: LoadedModel) -> LoadedModel:
        """The encoder: without a head of its own, or with CLIP's projection."""
        return encoder_of(loaded, self.feature)

    def check(self, loaded: LoadedModel) -> None:
        """The options, and whether the head belongs to this encoder.

        Raises:
            BadValueError: no head is given, or it was trained on something else.
        """
        self.sampling  # noqa: B018 - raises
        self._check_head()
        width = width_of(loaded.model, self.feature)
        check_head(self.loaded_head, loaded, f"bench.head={self.head}", self.feature, width)

    def _check_head(self) -> None:
        if self.head is None:
            raise BadValueError(
                "bench=kinetics needs bench.head=<file>: train one first, with the same model and "
                "options and stage=train."
            )
        check_there(Path(self.head).expanduser(), "bench.head")

    @property
    def loaded_head(self) -> Head:
        assert self.head is not None
        path = Path(self.head).expanduser()
        return _head(path, path.stat().st_mtime_ns if path.exists() else 0)

    def look(self, data: str, labels: str | None) -> None:
        self._check_head()
        look(data, self.videos)

    def open(
        self, data: str, loaded: LoadedModel, *, limit: int | None, sample: Sample
    ) -> ImageSet:
        """The videos of ``val``, or all where the data has no splits."""
        return chosen_images(
            lambda: self._evaluated(data), data, limit=limit, sample=sample, what="videos"
        )

    def _evaluated(self, data: str) -> VideoStore:
        listing = list_videos(data, "val", self.videos, whole=True)
        head = self.loaded_head
        classes = head.classes
        if classes is None:  # the head's file does not say: those of the data, if they can be
            classes = listing.classes
            if len(classes) != len(head.weight):
                raise DataError(
                    f"data={data} has {len(classes)} classes, bench.head={self.head} has "
                    f"{len(head.weight)} and does not name them, so they cannot be matched."
                )
        return VideoStore(listing, classes, data)

    def training_sets(self, data: str) -> tuple[ImageSet, ImageSet, list[str]]:
        """Videos of ``train`` and of ``val``, and the names of the classes.

        Raises:
            DataError: the data has no such splits, or val has a class that train has not.
        """
        train, val = (list_videos(data, s, self.videos, whole=False) for s in ("train", "val"))
        classes = train.classes
        if strange := set(val.classes) - set(classes):
            raise DataError(
                f"data={data}: its val has {len(strange)} classes that train has not, for instance "
                f"{min(strange)}."
            )

        def whole(listing: Listing) -> ImageSet:
            return ImageSet(VideoStore(listing, classes, data), range(len(listing.ids)))

        return whole(train), whole(val), classes

    @property
    def packages(self) -> Sequence[str]:
        return ("av",)

    @property
    def images_per_sample(self) -> int:
        return self.sampling.per_video

    def batches(
        self,
        loaded: LoadedModel,
        samples: ImageSet,
        *,
        batch_size: int,
        workers: int = 0,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[VideoBatch]:
        store, transform = cast(VideoStore, samples.store), loaded.transform
        return video_batches(
            store, samples.places, self.sampling, transform, batch_size, workers, start, stop
        )

    def encode(
        self, loaded: LoadedModel, batches: Iterable[VideoBatch]
    ) -> Generator[tuple[Tensor, dict[int, str]], None, None]:
        """Of each batch ``[b, V, D]``, means over the frames of every clip and view, and what is
        wrong with the videos that could not be read (their features are 0), by place in it.
        """
        width = width_of(loaded.model, self.feature)
        for batch in batches:
            with torch.inference_mode():
                found = [features(loaded.model, x, ids) for x, ids in batch.passes()]
            values = torch.zeros(len(batch.ids), self.sampling.inputs, cast(int, width))
            read = [at not in batch.failures for at in batch.indices]
            if found:  # else none of the batch can be read
                values[torch.tensor(read)] = self._means(found)
            yield values, {batch.indices.index(at): why for at, why in batch.failures.items()}

    def _means(self, found: Sequence[Tensor]) -> Tensor:
        """``[b, V, D]`` from the features of all frames of a batch."""
        if not found:
            return torch.empty(0)
        every = torch.cat(list(found))
        return every.view(-1, self.sampling.inputs, self.frames, every.shape[1]).mean(2)

    def evaluate(
        self, loaded: LoadedModel, reducer: Reducer, batches: Iterable[VideoBatch], *, seed: int
    ) -> Generator[list[Row], None, None]:
        geometry, head = geometry_of(loaded.model), self.loaded_head
        with torch.inference_mode(), install(loaded.model, reducer, seed=seed) as trace:
            for batch in batches:
                found: list[Tensor] = []
                work: list[dict[str, Any]] = []
                for pixels, ids in batch.passes():
                    trace.name_images(ids)
                    found.append(features(loaded.model, pixels, ids))
                    work += work_of(trace, geometry)
                scores = head.probabilities(self._means(found)) if found else torch.empty(0)
                yield rows_of(batch, scores, work, self.sampling.per_video)

    def summarise(self, rows: Rows, geometry: Geometry, convention: str) -> Summary:
        """What the rows of all videos say together.

        Raises:
            DataError: not one video could be read.
        """
        return summary_of(rows, geometry, convention, self.sampling, self.loaded_head)

    def speed_samples(self, count: int, batch_size: int) -> int:
        return min(count, SPEED_BATCHES * self.samples_per_batch(batch_size))

    def full_batches(self, decoded: Sequence[VideoBatch], batch_size: int) -> list[Pixels]:
        return full_batches(decoded, batch_size)

    def rates(
        self, speed: Mapping[str, Any], decoded: Sequence[VideoBatch], seconds: float
    ) -> dict[str, Any]:
        """``decode_frames_s`` (read, resized and normalised, in one process), and ``videos_s``: of
        each contender ``encoding`` alone, and ``decoding`` before it in the same process, from
        these times. The block's images are frames; the head's product is left out of both.
        """
        frames = sum(len(batch.frame_ids) for batch in decoded)
        return video_rates(speed, frames / seconds, self.sampling.per_video)


@lru_cache(maxsize=2)
def _head(path: Path, _written: int) -> Head:
    return load_head(path)
