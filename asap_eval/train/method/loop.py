"""The training itself: batches, steps and states; what is learnt and for what is a `Fit`'s."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

import torch

from asap_eval.data.images import ImageBatch
from asap_eval.errors import AsapEvalError, DataError
from asap_eval.runner.progress import bar, say, warn
from asap_eval.train.fits.fit import Asked, Fit
from asap_eval.train.method.job import TrainJob
from asap_eval.train.method.setting import Setting, prepared, said
from asap_eval.train.method.state import State

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
    parts = _untrained(setting)
    recipe = setting.recipe
    optimizer = torch.optim.AdamW(
        parts.parameters(), recipe.get("lr", 0.0), weight_decay=recipe.get("weight_decay", 0.0)
    )
    state, path = State(parts, optimizer), setting.state_path
    if path.exists() and not job.force:
        state.load(path, setting.identity)
        say(f"Going on after {state.step} of {setting.steps} batches.")
    _all_steps(setting, state, parts)
    for name, message in list(state.failed.items())[:3]:
        warn(f"left out {name}: {message}")
    parts.write(setting.out, said(setting, parts, state, command))
    path.unlink(missing_ok=True)
    return setting.out


def _untrained(setting: Setting) -> Fit:
    """Fresh parts from the seed; one image says what they will read."""
    batch = next(setting.batches(0))
    if len(batch.images) == 0:
        raise DataError(f"No image of the first batch can be read: {_first(batch)}")
    job, model = setting.job, setting.loaded.model
    asked = Asked(model, job.built(), setting.recipe, job.seed)
    pixels = setting.pixels(batch)[:1]
    return job.fit(asked, pixels).to(pixels.device)


def _all_steps(setting: Setting, state: State, parts: Fit) -> None:
    """Run what is left of the steps, writing the state now and then and at any stop."""
    job, saved = setting.job, time.monotonic()
    epochs = setting.recipe["epochs"]
    done = setting.done(state.step)
    total = len(setting.images) * epochs
    try:
        with bar(f"{job.model} {job.method}", total, done) as advance:
            while state.step < setting.steps:
                epoch = state.step // setting.per_epoch
                for batch in setting.batches(state.step):
                    _step(setting, state, parts, batch)
                    advance(len(batch.ids))
                    if time.monotonic() - saved > SAVE_SECONDS:
                        state.save(setting.state_path, setting.identity)
                        saved = time.monotonic()
                say(f"epoch {epoch + 1}/{epochs}: {_epoch_text(setting, parts, state, epoch)}")
    except BaseException:
        if state.step and state.whole:
            with contextlib.suppress(OSError):  # the first error is the one to report
                state.save(setting.state_path, setting.identity)
        if setting.state_path.exists():
            say("Stopped. The same command goes on after the last batch that was written.")
        raise


def _step(setting: Setting, state: State, parts: Fit, batch: ImageBatch) -> None:
    """One batch; one without a readable image changes nothing but the count."""
    names = dict(zip(batch.indices, batch.ids, strict=True))
    state.failed.update({names[at]: message for at, message in batch.failures.items()})
    if len(batch.images):
        draws = torch.Generator().manual_seed(setting.seed("draw", state.step))
        found = parts.losses(setting.loaded.model, setting.pixels(batch), draws)
        if not bool(found[0].isfinite()):
            raise AsapEvalError(f"The loss of batch {state.step + 1} is not finite: lower lr.")
        for group in state.optimizer.param_groups:
            group["lr"] = setting.recipe.get("lr", 0.0) * _rate(state.step, setting.steps)
        state.whole = False
        state.optimizer.zero_grad()
        if found[0].requires_grad:
            found[0].backward()
        state.optimizer.step()
        parts.learn()
        state.history.append([value.item() for value in found])
    else:
        state.history.append([math.nan] * len(parts.names))
    state.whole = False
    state.step += 1
    if state.step % setting.per_epoch == 0:
        parts.end_of_epoch(state.step // setting.per_epoch - 1)
    state.whole = True


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: a line up, then a cosine down to 0."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def _first(batch: ImageBatch) -> str:
    return next(iter(batch.failures.values()))


def _epoch_text(setting: Setting, parts: Fit, state: State, epoch: int) -> str:
    means = state.means(setting.per_epoch, epoch)
    return ", ".join(f"{name} {value:.4f}" for name, value in zip(parts.names, means, strict=True))
