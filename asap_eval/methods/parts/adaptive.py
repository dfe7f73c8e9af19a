"""Thresholds that an image sets itself, for ASAP: of masses that fire, of background distances.

The paper names adaptive K and tau as future work; these criteria are this project's own.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from asap_eval.errors import BadValueError

TWICE = 2.0
"""Of `outweighs`: how many times the quantile the heaviest column has to be."""

Firing = Literal["jump", "quantile"]


def firing(tau: str) -> tuple[Firing, float]:
    """Kind and number of ``jump:<ratio>`` or ``quantile:<q>``.

    Raises:
        BadValueError: another word, or a number outside the range of its kind.
    """
    kind, _, text = tau.partition(":")
    if kind not in ("jump", "quantile"):
        raise BadValueError(f"asap.tau='{tau}': give a number, jump:<ratio> or quantile:<q>.")
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if kind == "jump" and not 1 < number < float("inf"):
        raise BadValueError(
            f"asap.tau='{tau}': jump:<ratio> needs a ratio greater than 1, such as jump:1.3."
        )
    if kind == "quantile" and not 0 <= number <= 1:
        raise BadValueError(
            f"asap.tau='{tau}': quantile:<q> needs a share from 0 to 1, such as quantile:0.9."
        )
    return cast("Firing", kind), number


def jumps(heaviest: Tensor, before: Tensor, block: int, ratio: float) -> Tensor:
    """``[b]`` whether the heaviest column exceeds ``ratio`` times its mean over earlier blocks.

    In block 1, which has none before it, nothing does.

    Args:
        heaviest: ``[b]`` in this block, counted from 1. before: ``[b]`` sum over those before it.
    """
    return heaviest * (block - 1) > ratio * before


def outweighs(mass: Tensor, q: float) -> Tensor:
    """``[b]`` whether the heaviest column exceeds twice (`TWICE`) the q-quantile of the others.

    The quantile lies between neighbours in proportion, as numpy's does by default. A single column
    has no others: it never does.

    Args:
        mass: ``[b, P]`` columns.
    """
    ordered = mass.sort(1).values
    others = ordered.shape[1] - 1
    if others == 0:
        return torch.zeros_like(ordered[:, 0], dtype=torch.bool)
    place = q * (others - 1)
    low = int(place)
    between = torch.lerp(ordered[:, low], ordered[:, min(low + 1, others - 1)], place - low)
    return ordered[:, -1] > TWICE * between


def edge(values: Tensor, rule: Literal["otsu", "gap"]) -> Tensor:
    """``[f, 1]`` the largest value of the lower class; -inf where all values are equal, or one.

    ``otsu`` parts where the variance between both classes is largest, over every split of the
    sorted values (no histogram); ``gap`` at the largest step between neighbours. Equal values stay
    together; of equally good splits the lowest counts.

    Args:
        values: ``[f, n]``.
    """
    # fp64: sums of many distances decide between splits that lie close.
    ordered = values.double().sort(1).values
    low, high = ordered[:, :-1], ordered[:, 1:]
    count = ordered.shape[1]
    if count < 2:
        return values.new_full((len(values), 1), -torch.inf)
    score = high - low
    if rule == "otsu":
        # With S the sum of the lower i values, less their mean over all: variance ~ S^2 / i (n - i)
        sums = (ordered - ordered.mean(1, keepdim=True)).cumsum(1)[:, :-1]
        lower = torch.arange(1, count, device=values.device)
        score = sums.square() / (lower * (count - lower))
    score = torch.where(high > low, score, -1)
    best = low.gather(1, score.argmax(1, keepdim=True))
    best = torch.where((high > low).any(1, keepdim=True), best, -torch.inf)
    return best.to(values.dtype)
