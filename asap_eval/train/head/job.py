"""What a training of a head needs, and what names its features and its head."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from asap_eval.bench.bench import build_bench
from asap_eval.bench.video.kinetics import Kinetics
from asap_eval.data.images import ImageSet
from asap_eval.errors import BadValueError
from asap_eval.hosts import geometry_of
from asap_eval.models import LoadedModel
from asap_eval.models.look import look
from asap_eval.record import Job
from asap_eval.runner.inputs import check_folder
from asap_eval.runner.latest_model import load, spec_of
from asap_eval.runner.sources import sources_digest
from asap_eval.runner.versions import computing
from asap_eval.train.head.fit import Recipe

ENCODING = ("asap_eval.data.videos.loader", "asap_eval.models.encoder")
"""Where the code begins that can change features."""
TRAINING = ("asap_eval.train.head.fit",)


@dataclass(frozen=True)
class Training:
    """A training made ready.

    Attributes:
        job, recipe, bench, loaded: as asked for. train, val: its videos. classes: their names.
        content: hash of the videos of a split by its name, as they were opened. results: folder
            that heads and cached features go to.
    """

    job: Job
    recipe: Recipe
    bench: Kinetics
    loaded: LoadedModel
    train: ImageSet
    val: ImageSet
    classes: list[str]
    content: Mapping[str, str]
    results: Path

    @property
    def encoding(self) -> dict[str, Any]:
        """What decides the features of a video."""
        return {
            "weights": self.loaded.weights.sha256,
            "model": self.job.model,
            "feature": self.bench.feature,
            **dataclasses.asdict(self.bench.sampling),
            "transform": repr(self.loaded.transform),
            "dtype": self.job.dtype,
            "device": self.job.device.partition(":")[0],
            "sources": sources_digest(ENCODING),
            "versions": computing(self.job, self.bench, self.loaded.spec),
        }

    @property
    def splits(self) -> dict[str, ImageSet]:
        return {"train": self.train, "val": self.val}

    def folder(self, name: str) -> Path:
        """Of the cached features of a split."""
        videos = {"videos": self.splits[name].digest, "content": self.content[name]}
        return self.results / "features" / _hash({**self.encoding, **videos})[:16]

    @property
    def key(self) -> str:
        """Changes exactly when the head can change."""
        splits = [self.folder(name).name for name in self.splits]
        recipe = dataclasses.asdict(self.recipe)
        sources = sources_digest(TRAINING)
        return _hash([*splits, self.classes, recipe, self.job.seed, sources])

    @property
    def path(self) -> Path:
        """Of the head."""
        name = f"{self.job.model}-{self.bench.feature}-{self.key[:12]}.safetensors"
        return self.results / "heads" / name


def ready(job: Job, recipe: Recipe, results: Path) -> Training:
    """Open everything a training needs.

    Raises:
        AsapEvalError: a benchmark without training, options of an evaluation, or bad input.
    """
    bench = build_bench(job.bench, **job.bench_params)
    if bench.no_training:
        raise BadValueError(
            f"stage=train is not for bench={job.bench}: {bench.no_training}. `asap-eval train` "
            "trains the parts of a method."
        )
    bench = cast(Kinetics, bench)
    evaluation = {
        "method": job.method != "none", "k": job.k is not None, "budget": job.budget is not None,
        "speed": job.speed, "limit": job.limit is not None, "bench.head": bench.head is not None,
    }  # fmt: skip
    if given := [name for name, is_given in evaluation.items() if is_given]:
        raise BadValueError(
            f"stage=train takes no {' and no '.join(given)}: a head is trained on all training "
            "videos, with the unpruned model."
        )
    if not job.data:
        raise BadValueError("data is missing: give a folder with train and val videos.")
    bench.sampling  # noqa: B018 - raises
    look(spec_of(job), job.weights, vlm=False, device=job.device, dtype=job.dtype)
    check_folder("results", results)
    train, val, classes = bench.training_sets(job.data)
    loaded = bench.adapted(cast(LoadedModel, load(job)))
    geometry_of(loaded.model)  # raises
    content = {"train": train.content(), "val": val.content()}
    return Training(job, recipe, bench, loaded, train, val, classes, content, results)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
