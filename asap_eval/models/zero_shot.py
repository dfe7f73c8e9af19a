"""A classifier for CLIP towers: similarity to the text embeddings of the classes (zero-shot).

The file that `asap_eval.models.text_head` writes, or any safetensors file with

* ``text_embeds`` ``[classes, d]``, of any length each, in the order of the classes;
* ``logit_scale`` (optional), CLIP's parameter: the logarithm of the factor. Without it the factor
  is 100, where CLIP's training clips it; which class is first does not depend on it;
* metadata ``classes`` (optional): the WordNet ids in that order, as a JSON list. They are checked.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from asap_eval.errors import WeightsError
from asap_eval.files.digests import file_sha256

SCALE = 100.0
"""Factor of the similarities where the file names none."""


@dataclass(frozen=True)
class TextHead:
    """What a file of text embeddings holds.

    Attributes:
        embeds: ``[classes, d]`` fp32, each of length 1. scale: factor of the similarities.
        classes: WordNet ids in their order, ``None`` = the file does not say.
        sha256: of the file.
    """

    embeds: Tensor
    scale: float
    classes: tuple[str, ...] | None
    sha256: str


class ZeroShot(nn.Module):
    """``[B, classes]`` logits from a CLIP tower's pooled features ``[B, D]``.

    ``scale * normalised(projection(x)) @ normalised(text).T``: both are linear layers, and their
    MACs count as the head's.
    """

    def __init__(self, projection: nn.Module, head: TextHead) -> None:
        super().__init__()
        self.projection, self.scale = projection, head.scale
        classes, width = head.embeds.shape
        self.classifier = nn.Linear(width, classes, bias=False)
        with torch.no_grad():
            self.classifier.weight.copy_(head.embeds)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.classifier(normalize(self.projection(x), dim=-1))


def read_head(path: str | Path) -> TextHead:
    """The text embeddings of a file.

    Raises:
        WeightsError: no such file, no embeddings in it, or classes in another order than sorted.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(
            f"model.head={path} does not exist. `asap-eval head --out <file>` makes such a file."
        )
    try:
        with safe_open(file, "pt") as archive:
            tensors = {key: archive.get_tensor(key).float() for key in archive.keys()}  # noqa: SIM118
            metadata = archive.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"model.head={path} is not a safetensors file ({error}).") from error
    embeds, others = tensors.get("text_embeds"), set(tensors) - {"text_embeds", "logit_scale"}
    if others or embeds is None or embeds.dim() != 2 or not bool((embeds.norm(dim=1) > 0).all()):
        found = {key: list(value.shape) for key, value in tensors.items()}
        raise WeightsError(
            f"model.head={path} holds {found}; it needs text_embeds [classes, width], no row zero, "
            "and may have logit_scale, nothing else."
        )
    scale = float(tensors["logit_scale"].exp()) if "logit_scale" in tensors else SCALE
    if not (math.isfinite(scale) and scale > 0):
        raise WeightsError(f"model.head={path}: exp(logit_scale) = {scale} is no factor.")
    classes = _classes(path, metadata, len(embeds))
    return TextHead(normalize(embeds, dim=1), scale, classes, file_sha256(file))


def _classes(path: str | Path, metadata: dict[str, str], count: int) -> tuple[str, ...] | None:
    if "classes" not in metadata:
        return None
    classes = tuple(json.loads(metadata["classes"]))
    if len(classes) != count or list(classes) != sorted(set(classes)):
        raise WeightsError(
            f"model.head={path}: its metadata names {len(classes)} classes for {count} rows; they "
            "have to be as many, different, and sorted, as class numbers are."
        )
    return classes


def attach(net: Any, head: TextHead, path: str) -> None:
    """Put a zero-shot classifier behind a tower's projection, in place.

    timm's CLIP towers end in their projection, named ``head``; so does `ClipTower`.

    Raises:
        WeightsError: the tower's features are of another width.
    """
    projection: Any = getattr(net, "head", None)
    found = getattr(projection, "out_features", None)
    if found != head.embeds.shape[1]:
        raise WeightsError(
            f"model.head={path} has embeddings of width {head.embeds.shape[1]}, but this "
            f"{type(net).__name__} ends in {found or 'no'} features. A zero-shot head goes behind "
            "the projection of the CLIP model that made it."
        )
    net.head = ZeroShot(projection, head)
    net.num_classes = len(head.embeds)
