"""A linear head trained on cached features, on the CPU: AdamW, cosine schedule, resumable.

Every epoch's order comes from the seed and the epoch alone and the optimizer's state is kept after
each epoch, so an interrupted training ends in the same bits. The head of the last epoch is the
result: choosing the best one would choose by the videos it is then measured on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from asap_eval.errors import BadValueError, DataError
from asap_eval.files.tensors import save_tensors
from asap_eval.models.video_head import Head, accuracy
from asap_eval.train.head.features import Features


@dataclass(frozen=True)
class Recipe:
    """How a head is trained: ``train.<name>=`` on the command line.

    Attributes:
        epochs: passes over all training inputs. lr: of AdamW at the start; falls to 0 as a
            cosine. weight_decay: of AdamW. batch_size: inputs (clips and views) of a step.
        standardise: subtract the training features' mean and divide by their deviation, feature by
            feature. Both are folded into the head, which stays linear in the features as they are.
    """

    epochs: int = 10
    lr: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 64
    standardise: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadValueError(f"train.{name}={getattr(self, name)}: give a number >= 1.")
        if not self.lr > 0:
            raise BadValueError(f"train.lr={self.lr:g}: give a number > 0.")
        if self.weight_decay < 0:
            raise BadValueError(f"train.weight_decay={self.weight_decay:g}: give a number >= 0.")


@dataclass(frozen=True)
class Labelled:
    """Features of a split and the class number of each video."""

    features: Features
    labels: Sequence[int | None]


@dataclass
class _State:
    """All that a training is between two epochs."""

    epoch: int
    tensors: dict[str, Tensor]
    history: list[dict[str, Any]]


def train_head(
    recipe: Recipe,
    train: Labelled,
    val: Labelled,
    classes: Sequence[str],
    *,
    seed: int,
    checkpoint: Path,
    key: str,
    progress: Callable[[dict[str, Any]], None],
) -> tuple[Head, list[dict[str, Any]]]:
    """A head, and for every epoch ``epoch loss top1 top5`` (percent of all validation videos).

    Args:
        checkpoint: kept after every epoch, taken up where it has the same ``key``, removed at the
            end. progress: called with every entry of the history.

    Raises:
        DataError: no training video could be read.
    """
    inputs, labels = _inputs(train)
    if not len(inputs):
        first = next(iter(train.features.failures.values()), "there are none")
        raise DataError(f"No training video could be read; the first says: {first}")
    mean, scale = _standard(inputs) if recipe.standardise else (torch.zeros(1), torch.ones(1))
    inputs = (inputs - mean) / scale
    state = _resumed(checkpoint, key) or _begun(len(classes), inputs.shape[1], seed)
    while state.epoch < recipe.epochs:
        loss = _epoch(recipe, state, inputs, labels, seed)
        head = _folded(state, mean, scale, list(classes))
        top1, top5 = validated(head, val)
        entry = {"epoch": state.epoch, "loss": loss, "top1": top1, "top5": top5}
        state.history.append(entry)
        metadata = {"key": key, "epoch": str(state.epoch), "history": json.dumps(state.history)}
        save_tensors(state.tensors, checkpoint, metadata)
        progress(entry)
    return _folded(state, mean, scale, list(classes)), state.history


def validated(head: Head, val: Labelled) -> tuple[float, float | None]:
    """Top-1 and top-5 in percent over all videos."""
    scores = head.probabilities(val.features.values)
    return accuracy(scores, list(val.labels), val.features.failures)


def _inputs(split: Labelled) -> tuple[Tensor, Tensor]:
    """``[m, D]`` every clip and view of readable videos, and their classes ``[m]``."""
    values, failures = split.features.values, split.features.failures
    read = [at for at in range(len(values)) if at not in failures]
    labels = torch.tensor([split.labels[at] for at in read], dtype=torch.long)
    return values[read].flatten(0, 1), labels.repeat_interleave(values.shape[1])


def _standard(inputs: Tensor) -> tuple[Tensor, Tensor]:
    mean = inputs.double().mean(0)
    scale = inputs.double().std(0, correction=0)
    return mean.float(), torch.where(scale > 1e-6, scale, 1.0).float()


def _begun(classes: int, width: int, seed: int) -> _State:
    g = torch.Generator().manual_seed(_seed(seed, "start"))
    weight = 0.01 * torch.randn(classes, width, generator=g)
    return _State(0, {"weight": weight, "bias": torch.zeros(classes)}, [])


def _seed(seed: int, what: object) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{seed}|{what}".encode(), digest_size=7).digest(), "little"
    )


def _epoch(recipe: Recipe, state: _State, inputs: Tensor, labels: Tensor, seed: int) -> float:
    """One pass; the mean loss over it."""
    weight, bias = (state.tensors[name].clone().requires_grad_() for name in ("weight", "bias"))
    optimizer = torch.optim.AdamW(
        [weight, bias], lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=False
    )
    _restore(optimizer, state)
    g = torch.Generator().manual_seed(_seed(seed, state.epoch))
    steps = torch.randperm(len(inputs), generator=g).split(recipe.batch_size)
    total, loss_sum = len(steps) * recipe.epochs, 0.0
    for number, chosen in enumerate(steps, state.epoch * len(steps)):
        optimizer.param_groups[0]["lr"] = recipe.lr * (1 + math.cos(math.pi * number / total)) / 2
        loss = F.cross_entropy(F.linear(inputs[chosen], weight, bias), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += float(loss.detach()) * len(chosen)
    state.epoch += 1
    state.tensors = {"weight": weight.detach(), "bias": bias.detach()}
    for place, values in optimizer.state_dict()["state"].items():
        state.tensors.update({f"{place}.{name}": tensor for name, tensor in values.items()})
    return loss_sum / len(inputs)


def _restore(optimizer: torch.optim.Optimizer, state: _State) -> None:
    """The optimizer's moments as they were after the last epoch."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.tensors.items():
        place, _, moment = name.partition(".")
        if moment:
            moments.setdefault(int(place), {})[moment] = tensor.clone()
    given = optimizer.state_dict()
    optimizer.load_state_dict({**given, "state": moments})


def _resumed(checkpoint: Path, key: str) -> _State | None:
    """The state of an interrupted training of the same key."""
    if not checkpoint.exists():
        return None
    try:
        with safe_open(checkpoint, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(f"The checkpoint {checkpoint} is damaged ({error}): remove it.") from error
    return _State(int(metadata["epoch"]), tensors, json.loads(metadata["history"]))


def _folded(state: _State, mean: Tensor, scale: Tensor, classes: list[str]) -> Head:
    """The head for features as they are."""
    weight = state.tensors["weight"] / scale
    bias = state.tensors["bias"] - (weight * mean).sum(1)
    return Head(weight, bias, classes, {})
