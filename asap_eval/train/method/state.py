"""A training that can be taken up again: its state on disk, whole or not at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asap_eval.errors import AsapEvalError, BadValueError
from asap_eval.files.placed import placed


@dataclass
class State:
    """Where a training stands.

    Attributes:
        parts: what is trained, with all that its training keeps. optimizer: over its parameters.
        step: batches done. history: for each of them its losses, as `Fit.names` says.
        failed: images that could not be read, by id.
        whole: False while a step changes it; such a state is not written.
    """

    parts: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    history: list[list[float]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    whole: bool = True

    def means(self, per_epoch: int, epoch: int) -> list[float]:
        """The losses of an epoch, means over the batches that had an image."""
        rows = self.history[epoch * per_epoch : (epoch + 1) * per_epoch]
        read = [row for row in rows if not math.isnan(row[0])]
        return [sum(column) / len(read) for column in zip(*read, strict=True)]

    def save(self, path: Path, identity: str) -> None:
        """Write it, all or nothing; ``identity`` says which training it is of.

        Raises:
            OSError: the file cannot be written; an older one is then still whole.
        """
        content = BytesIO()  # what torch says of a full disk is no OSError
        values = {
            "identity": identity,
            "parts": self.parts.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": self.history,
            "failed": self.failed,
        }
        torch.save(values, content)
        with placed(path) as part:
            part.write_bytes(content.getbuffer())

    def load(self, path: Path, identity: str) -> None:
        """Take up what `save` left.

        Raises:
            BadValueError: it is of another training. AsapEvalError: it cannot be read.
        """
        content = _read(path)
        if content.get("identity") != identity:
            raise BadValueError(
                f"{path} is an interrupted training with other options, images, weights or code "
                "of the method. Give its options to go on, or force=true to begin anew."
            )
        self.parts.load_state_dict(content["parts"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.history = content["step"], content["history"]
        self.failed = content["failed"]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the unpickler
        raise AsapEvalError(
            f"{path} cannot be read ({type(error).__name__}). force=true begins anew."
        ) from error
    return found if isinstance(found, dict) else {}
