"""The training itself: masked student, unpruned teacher, one frozen backbone for both."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

import torch
from torch import nn

from asap_eval.data.images import ImageBatch
from asap_eval.errors import AsapEvalError, BadValueError, DataError
from asap_eval.hosts import install
from asap_eval.methods.parts.predictors import Predictor, write_predictors
from asap_eval.runner.progress import bar, say, warn
from asap_eval.train.predictors.job import TrainJob
from asap_eval.train.predictors.losses import losses
from asap_eval.train.predictors.masked import Masked, check_output
from asap_eval.train.predictors.setting import Setting, prepared, said
from asap_eval.train.predictors.state import State

SAVE_SECONDS = 60
"""Time between two states written to the disk."""

WARM_UP = 1 / 6
"""Share of the steps in which the learning rate rises (the authors' 5 of 30 epochs)."""


def train(job: TrainJob, command: str = "") -> Path:
    """Fit the predictors of a method; an interrupted training is taken up where it stopped.

    Args:
        command: what the user gave, for the file's metadata.

    Returns:
        The file written.

    Raises:
        AsapEvalError: names, values, weights or images that cannot be used.
    """
    setting = prepared(job)
    predictors = _untrained(setting)
    modules = nn.ModuleDict({str(place): predictors[place] for place in sorted(predictors)})
    optimizer = torch.optim.AdamW(modules.parameters(), lr=job.lr, weight_decay=job.weight_decay)
    state, path = State(modules, optimizer), setting.state_path
    if path.exists() and not job.force:
        state.load(path, setting.identity)
        say(f"Going on after {state.step} of {setting.steps} batches.")
    _all_steps(setting, state, predictors)
    for name, message in list(state.failed.items())[:3]:
        warn(f"left out {name}: {message}")
    write_predictors(setting.out, predictors, said(setting, state, command))
    path.unlink(missing_ok=True)
    return setting.out


def _untrained(setting: Setting) -> dict[int, Predictor]:
    """Fresh predictors from the seed; one image says what they will read."""
    batch = next(setting.batches(0))
    if len(batch.images) == 0:
        raise DataError(f"No image of the first batch can be read: {_first(batch)}")
    pixels = setting.pixels(batch)[:1]
    model, predictors = setting.loaded.model, dict[int, Predictor]()
    check_output(model, pixels)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.job.seed)
        with install(model, Masked(setting.job.built(), predictors, torch.Generator())):
            model(pixels)
    if not predictors:
        raise BadValueError(f"method.blocks={setting.job.options.get('blocks')}: nothing to train.")
    return predictors


def _all_steps(setting: Setting, state: State, predictors: dict[int, Predictor]) -> None:
    """Run what is left of the steps, writing the state now and then and at any stop."""
    job, saved = setting.job, time.monotonic()
    done = setting.done(state.step)
    total = len(setting.images) * job.epochs
    try:
        with bar(f"{job.model} {job.method}", total, done) as advance:
            while state.step < setting.steps:
                epoch = state.step // setting.per_epoch
                for batch in setting.batches(state.step):
                    _step(setting, state, predictors, batch)
                    advance(len(batch.ids))
                    if time.monotonic() - saved > SAVE_SECONDS:
                        state.save(setting.state_path, setting.identity)
                        saved = time.monotonic()
                say(f"epoch {epoch + 1}/{job.epochs}: {_epoch_text(setting, state, epoch)}")
    except BaseException:
        if state.step and state.whole:
            with contextlib.suppress(OSError):  # the first error is the one to report
                state.save(setting.state_path, setting.identity)
        if setting.state_path.exists():
            say("Stopped. The same command goes on after the last batch that was written.")
        raise


def _step(
    setting: Setting, state: State, predictors: dict[int, Predictor], batch: ImageBatch
) -> None:
    """One batch; one without a readable image changes nothing but the count."""
    job, model = setting.job, setting.loaded.model
    names = dict(zip(batch.indices, batch.ids, strict=True))
    state.failed.update({names[at]: message for at, message in batch.failures.items()})
    if len(batch.images):
        pixels = setting.pixels(batch)
        with torch.no_grad():
            teacher = model(pixels)
        draws = torch.Generator().manual_seed(setting.seed("draw", state.step))
        masked = Masked(job.built(), predictors, draws)
        with install(model, masked):
            student = model(pixels)
        found = losses(
            student,
            teacher,
            masked.masks.kept,
            job.keep,
            ce=job.ce,
            kl=job.kl,
            ratio=job.ratio,
        )
        if not bool(found.total.isfinite()):
            raise AsapEvalError(f"The loss of batch {state.step + 1} is not finite: lower lr.")
        for group in state.optimizer.param_groups:
            group["lr"] = job.lr * _rate(state.step, setting.steps)
        state.whole = False
        state.optimizer.zero_grad()
        found.total.backward()
        state.optimizer.step()
        parts = (found.total, found.ce, found.kl, found.ratio)
        state.history.append([value.item() for value in parts])
    else:
        state.history.append([math.nan] * 4)
    state.step += 1
    state.whole = True


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: a line up, then a cosine down to 0."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def _first(batch: ImageBatch) -> str:
    return next(iter(batch.failures.values()))


def _epoch_text(setting: Setting, state: State, epoch: int) -> str:
    names = ("loss", "ce", "kl", "ratio")
    means = state.means(setting.per_epoch, epoch)
    return ", ".join(f"{name} {value:.4f}" for name, value in zip(names, means, strict=True))
