"""What a training of a method's parts says of itself to the loop that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from asap_eval.files.tensors import save_tensors
from asap_eval.method import Reducer
from asap_eval.methods.parts.predictors import FORMAT, TRAINED


@dataclass(frozen=True)
class Asked:
    """What a training is asked for.

    Attributes:
        model: frozen, in eval mode. method: with its options. recipe: a value for each key of
            `Fit.recipe`. seed: of first values.
    """

    model: nn.Module
    method: Reducer
    recipe: Mapping[str, Any]
    seed: int


class Fit(nn.Module):
    """The parts of a method that are trained, and what they are trained for.

    Its parameters are what an optimizer changes; they and its buffers and extra state are what an
    interrupted training keeps. One that needs no gradient learns in `learn` and `end_of_epoch`.

    Args:
        asked: the training. pixels: ``[1, 3, H, W]`` an image, to see what the parts will read.

    Raises:
        AsapEvalError: a model or options that cannot be trained.
    """

    of: ClassVar[type[Reducer]]
    """The method, or a base of methods."""
    how: ClassVar[str] = "gradients"
    """Its name among the trainings of one method."""
    names: ClassVar[tuple[str, ...]] = ("loss",)
    """Of what `losses` gives; the first is what is minimised."""
    recipe: ClassVar[Mapping[str, Any]]
    """Keys of ``asap-eval train`` that it reads, with their defaults: ``epochs`` and ``batch_size``
    always, ``lr`` and ``weight_decay`` where there are gradients."""
    trained: ClassVar[str] = TRAINED
    """What tables say of rows with these parts."""
    option: ClassVar[str] = "checkpoint"
    """The method's option that takes the file."""
    suffix: ClassVar[str] = ".safetensors"
    """How the file's name ends."""

    def __init__(self, asked: Asked, pixels: Tensor) -> None:
        super().__init__()
        self.method, self.wanted = asked.method, asked.recipe

    @classmethod
    def check(cls, recipe: Mapping[str, Any]) -> None:
        """Raise `BadValueError` for values that cannot be trained with."""

    @staticmethod
    def method_k(recipe: Mapping[str, Any]) -> float | None:
        """The method's main knob in training; ``None`` = its default."""
        return None

    def losses(
        self, model: nn.Module, pixels: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Scalars, as `names` says, of a batch ``[b, 3, H, W]``; nothing is learnt here.

        Args:
            draws: for random choices, on the CPU; the same for a batch of an interrupted training.
        """
        raise NotImplementedError

    def learn(self) -> None:
        """Asked after the optimizer's step: what the latest batch teaches without gradients."""

    def end_of_epoch(self, epoch: int) -> None:
        """Asked after every pass over the images, counted from 0."""

    def tensors(self) -> dict[str, Tensor]:
        """What the file holds, by name."""
        raise NotImplementedError

    def said(self) -> dict[str, str]:
        """What the file says beyond what every training's says."""
        return {}

    def write(self, path: Path, said: Mapping[str, str]) -> None:
        """Write the file, all or nothing.

        Raises:
            OSError: it cannot be written; an older one is then still whole.
        """
        save_tensors(self.tensors(), path, {"format": FORMAT, **said})
