"""``stage=train``: a linear head on frozen features of videos, its features cached on the disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from asap_eval.bench.bench import build_bench
from asap_eval.bench.images import ImageSet
from asap_eval.bench.kinetics import Kinetics
from asap_eval.bench.macs import unpruned_macs
from asap_eval.errors import BadValueError
from asap_eval.hosts import geometry_of
from asap_eval.models import LoadedModel
from asap_eval.record import Job
from asap_eval.runner import provenance
from asap_eval.runner.failures import readable
from asap_eval.runner.lock import locked
from asap_eval.runner.prepare import load
from asap_eval.runner.progress import bar, say, warn
from asap_eval.runner.sources import sources_digest
from asap_eval.video.cache import Encoded, Features, cached_features, count_cached
from asap_eval.video.head import load_head, save_head
from asap_eval.video.training import Labelled, Recipe, train_head

ENCODING = ("asap_eval.video.loader", "asap_eval.video.encoder")
"""Where the code begins that can change features."""
TRAINING = ("asap_eval.video.training",)
SHOWN = 3


@dataclass(frozen=True)
class Training:
    """A training made ready.

    Attributes:
        job, recipe, bench, loaded: as asked for. train, val: its videos. classes: their names.
        results: folder that heads and cached features go to.
    """

    job: Job
    recipe: Recipe
    bench: Kinetics
    loaded: LoadedModel
    train: ImageSet
    val: ImageSet
    classes: list[str]
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
        }

    def folder(self, split: ImageSet) -> Path:
        """Of the cached features of a split."""
        where = {"data": str(Path(self.job.data).expanduser().resolve()), "videos": split.digest}
        return self.results / "features" / _hash({**self.encoding, **where})[:16]

    @property
    def key(self) -> str:
        """Changes exactly when the head can change."""
        splits = [self.folder(split).name for split in (self.train, self.val)]
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
        raise BadValueError(f"stage=train is not for bench={job.bench}: {bench.no_training}.")
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
    loaded = bench.adapted(load(job))
    geometry_of(loaded.model)  # raises
    train, val, classes = bench.training_sets(job.data)
    return Training(job, recipe, bench, loaded, train, val, classes, results)


def train(
    job: Job,
    recipe: Recipe,
    *,
    results: Path,
    force: bool = False,
    workers: int = 0,
    overrides: Sequence[str] | None = None,
) -> Path:
    """Train a head, or hand back the one that is there; an interrupted training is resumed.

    Args:
        job: model, data and benchmark. recipe: how it is trained. results: folder of ``heads`` and
            ``features``. force: train again (cached features are kept). workers: processes that
            decode videos. overrides: command line, for the file.

    Raises:
        AsapEvalError: anything that can be said in one line.
    """
    with readable(job):
        training = ready(job, recipe, results)
        with locked(training.path):
            if training.path.exists() and not force:
                say(f"Already done: {training.path} (force=true trains again).")
                return training.path
            return _train(training, workers, overrides)


def _train(training: Training, workers: int, overrides: Sequence[str] | None) -> Path:
    job, recipe = training.job, training.recipe
    splits = {"train": training.train, "val": training.val}
    found = {name: _features(training, name, split, workers) for name, split in splits.items()}
    labelled = {name: Labelled(found[name], split.labels) for name, split in splits.items()}
    checkpoint = training.path.with_name(f".{training.path.stem}.training.safetensors")
    done = 0
    with bar("training a head", recipe.epochs) as advance:

        def progress(entry: Mapping[str, Any]) -> None:
            nonlocal done
            advance(entry["epoch"] - done)
            done = entry["epoch"]
            accuracy = f"top-1 of val {entry['top1']:.2f} %"
            say(f"epoch {done}: loss {entry['loss']:.4f}, {accuracy}")

        head, history = train_head(
            recipe,
            labelled["train"],
            labelled["val"],
            training.classes,
            seed=job.seed,
            checkpoint=checkpoint,
            key=training.key,
            progress=progress,
        )
    about = _about(training, found, history, overrides)
    save_head(dataclasses.replace(head, about=about), training.path)
    checkpoint.unlink(missing_ok=True)
    return training.path


def _features(training: Training, name: str, split: ImageSet, workers: int) -> Features:
    job, bench, loaded = training.job, training.bench, training.loaded
    folder = training.folder(split)

    def encode(start: int) -> Iterator[Encoded]:
        batches = bench.batches(
            loaded, split, batch_size=job.batch_size, workers=workers, start=start
        )
        return bench.encode(loaded, batches)

    with bar(f"features of {name}", len(split)) as advance:
        found = cached_features(folder, len(split), encode, training.encoding, advance)
    if found.failures:
        first = "; ".join(list(found.failures.values())[:SHOWN])
        what = "are left out of the training" if name == "train" else "count as wrong"
        warn(f"{len(found.failures)} of {len(split)} videos of {name} failed and {what}: {first}")
    return found


def _about(
    training: Training,
    found: Mapping[str, Features],
    history: Sequence[Mapping[str, Any]],
    overrides: Sequence[str] | None,
) -> dict[str, Any]:
    """What the head's file says of where it comes from."""
    job, loaded = training.job, training.loaded
    commit, dirty = provenance.git_state()
    splits = {"train": training.train, "val": training.val}
    return {
        "feature": training.bench.feature,
        "backbone": loaded.weights.sha256,
        "backbone_name": loaded.weights.name,
        "backbone_trained": loaded.weights.trained,
        "model": job.model,
        "sampling": dataclasses.asdict(training.bench.sampling),
        "transform": repr(loaded.transform),
        "recipe": dataclasses.asdict(training.recipe),
        "seed": job.seed,
        "data": {
            name: {
                "source": job.data,
                "n": len(split),
                "ids_digest": split.digest,
                "failures": len(found[name].failures),
            }
            for name, split in splits.items()
        },
        "history": list(history),
        "command": provenance.command_line(overrides),
        "commit": commit,
        "dirty": dirty,
        "packages": provenance.packages(),
        "machine": provenance.machine(job.device),
        "finished": provenance.now(),
    }


def training_plan(job: Job, recipe: Recipe, results: Path) -> list[str]:
    """``plan=true``: lines that say what a training would do."""
    training = ready(job, recipe, results)
    each = training.bench.sampling.per_video
    work = unpruned_macs(geometry_of(training.loaded.model)) / 1e9
    lines = [f"{job.model}: a head of {len(training.classes)} classes on {job.bench}"]
    for name, split in (("train", training.train), ("val", training.val)):
        left = len(split) - count_cached(training.folder(split))
        lines.append(
            f"  {name + ':':9}{len(split)} videos, {left} of them to encode: {each} frames each, "
            f"{left * each * work:.0f} GMACs"
        )
    options = (f"{name}={value}" for name, value in dataclasses.asdict(recipe).items())
    lines.append(f"  recipe:  {', '.join(options)}")
    state = "is there and will be kept" if training.path.exists() else "will be written"
    lines.append(f"  head:    {training.path} {state}")
    return lines


def head_summary(path: Path) -> str:
    """One line on a trained head."""
    head = load_head(path)
    last = head.about["history"][-1]
    top5 = "" if last["top5"] is None else f", top-5 {last['top5']:.2f} %"
    val = head.about["data"]["val"]
    return (
        f"{len(head.weight)} classes, {last['epoch']} epochs: top-1 {last['top1']:.2f} %{top5} of "
        f"{val['n']} val videos ({val['failures']} failed)"
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
