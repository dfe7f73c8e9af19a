"""The random walk of the unpruned model: does it do what the ASAP paper says of it?

``analysis`` is described in analysis.py, the columns of a row in observer.py. Beside the
record lies ``<record>.arrays.safetensors``: ``mean [L, N, N]`` C of every block, mean over images;
``heaviest [L, h, w]`` and ``sink [L, h, w]``, images whose heaviest column, or whose sink in the
class token's row of C, is that patch; ``map.<i> [L, N, N]`` fp16, C of single images, whose ids are
in the file's metadata (``map.<i>``).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from asap_eval.bench.bench import register
from asap_eval.bench.image_bench import ImageBench
from asap_eval.bench.walk.analysis import analyse, positions
from asap_eval.bench.walk.observer import Walked, WalkObserver
from asap_eval.bench.walk.sums import StreamedSums
from asap_eval.data.address import look
from asap_eval.data.images import ImageBatch, ImageSet, images_of
from asap_eval.data.subset import Sample
from asap_eval.errors import BadValueError
from asap_eval.files.tensors import save_tensors
from asap_eval.hosts import Geometry
from asap_eval.method import Reducer
from asap_eval.models import LoadedModel
from asap_eval.record.journal import Row, Rows
from asap_eval.trace import Trace

MAPS = 4
"""Single images whose C is kept where none is named."""


@register(
    "walk", "ASAP's random walk over the unpruned model: sinks, distances, the paper's claims."
)
@dataclass
class WalkBench(ImageBench):
    """Figures of the walk, block by block; only ``method=none``.

    Attributes:
        alpha, order, chain: of the walk, as ASAP's options of these names.
        tau: threshold at whose block the claims are judged.
        taus: further thresholds, each with its blocks of firing.
        maps: ids of the images whose C is kept whole; none named = four, evenly spread.
    """

    alpha: float = 0.5
    order: Literal["walk", "rollout"] = "walk"
    chain: Literal["full", "patches"] = "full"
    tau: float = 3.0
    taus: list[float] = field(default_factory=lambda: [1.4, 1.7, 2.0, 2.5, 4.0, 5.0])
    maps: list[str] = field(default_factory=list)

    accuracy = False
    writes = True
    waits = False  # the observer has the latest pass alone
    images = "labelled"
    no_speed = "it looks at the unpruned model's attention; benchmarks/speed.py times the walk"

    def __post_init__(self) -> None:
        self._observer = WalkObserver(alpha=self.alpha, order=self.order, chain=self.chain)
        self._staged: dict[str, Tensor] = {}
        self._sums: StreamedSums | None = None
        self._arrays = Path()

    def accepts(self, reducer: Reducer) -> None:
        if reducer.name != "none":
            raise BadValueError(
                f"method={reducer.name} with bench=walk: it watches the unpruned model's walk, "
                "which a method would cut short. Use method=none."
            )

    def check(self, loaded: LoadedModel) -> None:
        if not 0 < self.alpha <= 1:
            raise BadValueError(f"bench.alpha={self.alpha} is a share: give a value in (0, 1].")
        if bad := [tau for tau in (self.tau, *self.taus) if not 0 < tau < float("inf")]:
            raise BadValueError(f"bench.tau and bench.taus hold {bad[0]}: give positive numbers.")

    def look(self, data: str, labels: str | None) -> None:
        look(data, labels)

    def open(
        self, data: str, loaded: LoadedModel, *, limit: int | None, sample: Sample
    ) -> ImageSet:
        """The images of an address; their labels are not read."""
        return self._watched(images_of(loaded, data, limit=limit, sample=sample))

    def open_flat(
        self, data: str, labels: str, loaded: LoadedModel, *, limit: int | None, sample: Sample
    ) -> ImageSet:
        """The images of a flat folder or tar."""
        found = images_of(loaded, data, label_file=labels, limit=limit, sample=sample)
        return self._watched(found)

    def _watched(self, images: ImageSet) -> ImageSet:
        """The images, some of whose maps are kept whole."""
        count = len(images)
        spread = [images.ids[at * count // MAPS] for at in range(MAPS)] if count >= MAPS else []
        self._observer.keep = self.maps or spread or images.ids
        if missing := set(self.maps) - set(images.ids):
            raise BadValueError(
                f"bench.maps names {sorted(missing)[0]}, which is not among the {count} images; "
                f"the first of them is {images.ids[0]}."
            )
        return images

    def begin(self, stem: Path, done: int, piece: Path | None = None) -> None:
        self._arrays = _arrays_of(stem)
        if not done and piece is None:
            self._arrays.unlink(missing_ok=True)
        complete = piece is None and done and _samples(self._arrays) == done
        self._sums = None if complete else StreamedSums(_sums_of(piece or stem), done)

    def gather(self, stem: Path, pieces: Sequence[tuple[Path, int]]) -> None:
        self._arrays = _arrays_of(stem)
        complete = _samples(self._arrays) == sum(count for _, count in pieces)
        files = [(_sums_of(piece), count) for piece, count in pieces]
        self._sums = None if complete else StreamedSums.joined(_sums_of(stem), files)

    def installed(self, reducer: Reducer) -> Reducer:
        return self._observer

    def evaluate(
        self, loaded: LoadedModel, reducer: Reducer, batches: Iterable[ImageBatch], *, seed: int
    ) -> Generator[list[Row], None, None]:
        with closing(super().evaluate(loaded, reducer, batches, seed=seed)) as measured:
            for rows in measured:
                if self._sums is not None:
                    self._sums.add(self._staged, len(rows))
                self._staged = {}
                yield rows

    def measure(self, batch: ImageBatch, output: Tensor, trace: Trace) -> list[dict[str, Any]]:
        walked = self._observer.latest
        assert walked is not None
        self._staged = _staged(walked, batch.readable)
        return [{"walk": row} for row in walked.rows()]

    def unmeasured(self, label: int | None) -> dict[str, Any]:
        return {"walk": None}

    def analysis(self, read: Rows, geometry: Geometry) -> dict[str, Any]:
        return analyse(read, geometry.grid, [self.tau, *sorted(set(self.taus) - {self.tau})])

    def finish(self, rows: Rows, geometry: Geometry) -> str:
        """Put the arrays beside the record; they are kept if an earlier try already did."""
        if self._sums is not None:
            read = [row["walk"] for row in rows if row["error"] is None]
            totals = self._sums.totals
            names = sorted(name for name in totals if name.startswith("map:"))
            arrays = {"mean": (totals["total"] / len(read)).float()}
            arrays |= positions(read, geometry.grid)
            arrays |= {f"map.{at}": totals[name].half() for at, name in enumerate(names)}
            notes = {f"map.{at}": name.partition(":")[2] for at, name in enumerate(names)}
            save_tensors(arrays, self._arrays, {"samples": str(len(rows)), **notes})
            self._sums.remove()
        return self._arrays.name


def _staged(walked: Walked, ids: Sequence[str]) -> dict[str, Tensor]:
    """What one batch adds to the sums: C over its images, and the single images to keep."""
    single = {f"map:{ids[at]}": torch.stack(blocks) for at, blocks in walked.single.items()}
    return {"total": torch.stack(walked.total), **single}


def _arrays_of(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.arrays.safetensors")


def _sums_of(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.sums.safetensors")


def _samples(path: Path) -> int:
    """Samples behind a file of arrays; 0 where there is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return int((file.metadata() or {}).get("samples", 0))
    except (OSError, SafetensorError):
        return 0
