"""``stage=train``: a linear head on frozen features of videos, its features cached on the disk."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asap_eval.bench.first_samples import FirstSamples
from asap_eval.data.images import ImageSet
from asap_eval.errors import DataError
from asap_eval.hosts import geometry_of
from asap_eval.models.video_head import load_head, save_head
from asap_eval.record import Job
from asap_eval.runner import provenance
from asap_eval.runner.lock import locked
from asap_eval.runner.machine_errors import explaining
from asap_eval.runner.progress import bar, say, warn
from asap_eval.train.head.features import Encoded, Features, cached_features, count_cached
from asap_eval.train.head.fit import Labelled, Recipe, train_head
from asap_eval.train.head.job import Training, ready
from asap_eval.work.macs import unpruned_macs

SHOWN = 3
"""Failed videos that are named."""


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

    The same command in several processes shares out the videos that are to be encoded; one of them
    trains, the others wait for its head.

    Raises:
        AsapEvalError: anything that can be said in one line.
    """
    with explaining(job):
        training = ready(job, recipe, results)
        if _is_done(training, force):
            return training.path
        splits = training.splits
        # Before the lock: several processes may encode, one trains.
        found = {name: _features(training, name, split, workers) for name, split in splits.items()}
        with locked(training.path):
            if not _is_done(training, force):
                _train(training, found, overrides)
            return training.path


def _is_done(training: Training, force: bool) -> bool:
    if force or not training.path.exists():
        return False
    say(f"Already done: {training.path} (force=true trains again).")
    return True


def _train(
    training: Training, found: Mapping[str, Features], overrides: Sequence[str] | None
) -> None:
    job, recipe = training.job, training.recipe
    splits = training.splits
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


def _features(training: Training, name: str, split: ImageSet, workers: int) -> Features:
    job, bench, loaded = training.job, training.bench, training.loaded
    folder = training.folder(name)

    def encode(start: int, stop: int) -> Iterator[Encoded]:
        batches = bench.batches(
            loaded, split, batch_size=job.batch_size, workers=workers, start=start, stop=stop
        )
        first, place = FirstSamples(), start
        for values, failed in bench.encode(loaded, batches):
            if start == 0:
                first.see((split.ids[place + at], failed.get(at)) for at in range(len(values)))
            place += len(values)
            yield values, failed

    with bar(f"features of {name}", len(split)) as advance:
        ends, count = bench.ends(split, job.batch_size), len(split)
        found = cached_features(folder, ends, count, encode, training.encoding, advance)
    if split.content() != training.content[name]:
        shutil.rmtree(folder)
        raise DataError(
            f"The {name} videos of data={job.data} changed while they were encoded. Give the same "
            "command again once nothing writes there."
        )
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
                "content": training.content[name],
                "failures": len(found[name].failures),
            }
            for name, split in training.splits.items()
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
    for name, split in training.splits.items():
        left = len(split) - count_cached(training.folder(name))
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
