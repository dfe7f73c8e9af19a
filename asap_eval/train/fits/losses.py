"""What a predictor is trained for: the unpruned model's answers, and the share of patches kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """Scalars: the sum that is minimised, and its parts before their weights."""

    total: Tensor
    ce: Tensor
    kl: Tensor
    ratio: Tensor


def losses(
    student: Tensor,
    teacher: Tensor,
    kept: Sequence[Tensor],
    keep: float,
    *,
    ce: float,
    kl: float,
    ratio: float,
) -> Losses:
    """DynamicViT's loss with the unpruned model in place of labels.

    The authors' distillation of token features is left out: it adapts the backbone, frozen here.

    Args:
        student, teacher: logits ``[B, classes]`` of the masked and of the unpruned model.
        kept: ``[B]`` share of the patches kept, at each place. keep: the rate.
        ce, kl, ratio: weights of the three parts.
    """
    parts = ce_loss(student, teacher), kl_loss(student, teacher), ratio_loss(kept, keep)
    return Losses(ce * parts[0] + kl * parts[1] + ratio * parts[2], *parts)


def ce_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy to the teacher's first class."""
    return F.cross_entropy(student, teacher.argmax(-1))


def kl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of the classes, mean over the batch."""
    return F.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
    )


def ratio_loss(kept: Sequence[Tensor], keep: float) -> Tensor:
    """Squared distance of the share kept from ``keep^i`` at the i-th place: mean over all."""
    wanted = ((share - keep**place).square().mean() for place, share in enumerate(kept, 1))
    return sum(wanted, kept[0].new_zeros(())) / len(kept)
