"""A linear head on features of a video, and its safetensors file, which says how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from asap_eval.errors import BadValueError, WeightsError
from asap_eval.files.digests import file_sha256
from asap_eval.files.tensors import save_tensors
from asap_eval.models import LoadedModel


@dataclass(frozen=True)
class Head:
    """``scores = features @ weight.T + bias``, from the mean of the features of a clip's frames.

    Attributes:
        weight: ``[C, D]`` fp32. bias: ``[C]``. classes: their names; None = the file has none.
        about: what the file says of its training: ``feature``, ``backbone`` (sha256 of the
            encoder's weights) and more; empty in a file from elsewhere. sha256: of the file.
    """

    weight: Tensor
    bias: Tensor
    classes: list[str] | None
    about: dict[str, Any]
    sha256: str = ""

    def probabilities(self, features: Tensor) -> Tensor:
        """``[n, C]`` of features ``[n, V, D]``: the mean over a video's clips and views."""
        return (features @ self.weight.T + self.bias).softmax(-1).mean(1)


def save_head(head: Head, path: Path) -> None:
    """Write a head: all of it or nothing.

    Raises:
        OSError: the file cannot be written; an older one is then still whole.
    """
    save_tensors(
        {"weight": head.weight, "bias": head.bias},
        path,
        {"classes": json.dumps(head.classes), "about": json.dumps(head.about, sort_keys=True)},
    )


def load_head(path: Path) -> Head:
    """A head of this package, or any safetensors file with ``weight [C, D]`` and ``bias [C]``.

    Raises:
        WeightsError: no such file, or something else in it.
    """
    if not path.is_file():
        raise WeightsError(
            f"bench.head={path} does not exist. Give the head's .safetensors file, or train one "
            "with stage=train."
        )
    try:
        with safe_open(path, "pt") as file:
            given = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"bench.head={path} is not a whole safetensors file: {error}") from error
    weight, bias = given.get("weight"), given.get("bias")
    if (
        weight is None
        or bias is None
        or len(given) > 2
        or weight.dim() != 2
        or bias.shape != weight.shape[:1]
    ):
        shapes = {name: list(tensor.shape) for name, tensor in given.items()}
        raise WeightsError(
            f"bench.head={path} holds {shapes}; a head is weight [classes, features] and bias "
            "[classes], nothing else."
        )
    return Head(
        weight,
        bias,
        json.loads(metadata["classes"]) if "classes" in metadata else None,
        json.loads(metadata.get("about", "{}")),
        file_sha256(path),
    )


def check_head(
    head: Head, encoder: LoadedModel, given: str, feature: str, width: int | None
) -> None:
    """Refuse a head that does not belong to an encoder.

    Args:
        given: the head as the command line has it. feature: what of the encoder is read.
        width: of that feature.

    Raises:
        BadValueError: it was trained on something else.
    """
    about = head.about
    if head.weight.shape[1] != width:
        raise BadValueError(
            f"{given} reads {head.weight.shape[1]} features, and {encoder.name} has {width} with "
            f"bench.feature={feature}."
        )
    if about.get("feature", feature) != feature:
        raise BadValueError(
            f"{given} was trained with bench.feature={about['feature']}, not {feature}."
        )
    if about.get("backbone", encoder.weights.sha256) != encoder.weights.sha256:
        raise BadValueError(
            f"{given} was trained on other weights ({about.get('backbone_name')}) than "
            f"{encoder.weights.name}: give those as weights=, or train a head for these."
        )


def accuracy(
    probabilities: Tensor, labels: list[int | None], failures: Mapping[int, str]
) -> tuple[float, float | None]:
    """Top-1 and top-5 in percent over all videos; unreadable ones count as wrong.

    Args:
        probabilities: ``[n, C]`` of all videos. failures: unreadable ones by place.
    """
    best = probabilities.topk(min(5, probabilities.shape[1])).indices
    truth = torch.tensor([-1 if label is None else label for label in labels])
    hits = best == truth[:, None]
    hits[list(failures)] = False
    top5 = 100 * float(hits.any(1).double().mean()) if best.shape[1] == 5 else None
    return 100 * float(hits[:, 0].double().mean()), top5
