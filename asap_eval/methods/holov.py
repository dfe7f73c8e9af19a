"""HoloV: Don't Just Chase "Highlighted Tokens" in MLLMs, Revisiting Visual Holistic Context
Retention (Zou et al., arXiv 2510.02912).

The image's tokens are cut into windows of neighbours; every window gets its share of the budget,
and in each the tokens that the class token attends to most go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.tokens import DROPPED, Reduction, reduce_run


@register(
    "holov",
    Card(
        paper='Don\'t Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context '
        "Retention, arXiv 2510.02912",
        licence="Apache-2.0",
        training="training-free",
        knob="k",
        knob_meaning="image tokens per image, of all crops together, from 1; fewer where a "
        "window's share is larger than the window",
        fixed_count=False,
        deviations="no zero vectors where windows cannot fill their share (theirs hands those on "
        "as tokens; the trace's note `missing` counts them); the term of feature similarity, which "
        "cancels out of the authors' window scores up to a 1e-6, is not computed",
    ),
)
@dataclass
class HoloV(Reducer):
    """Share the budget among windows of the image by their attention, and keep each one's best.

    Behind the projector, over the packed tokens of all crops without newlines. A window's score is
    its mean attention: in the authors' code what is added for the variance of similarities is, in
    the mean over a window, a constant share of it. Tokens are handed on window by window, by
    falling attention within each.

    Attributes:
        k: image tokens handed to the language model.
        windows: how many.
    """

    k: int = 64
    windows: int = 16
    tower = "language"
    tallies: ClassVar[Mapping[str, str]] = {
        "missing": "image tokens fewer than the budget, where a window is smaller than its "
        "share (the authors' code hands on zero vectors there)"
    }

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW})

    def check(self, batch: Batch) -> None:
        if self.k < 1 or self.windows < 1:
            raise BadValueError(
                f"holov: k={self.k} tokens of windows={self.windows}: give at least 1 of each."
            )

    def begin(self, batch: Batch) -> Batch:
        return batch

    def watch(self, block: int, state: Batch) -> bool:
        return False

    def admit(self, view: View, state: Batch) -> Reduction | None:
        prompt = state.prompt
        assert prompt is not None  # a host runs a language method on prompts alone
        assert prompt.cls_row is not None
        group, missing = Reduction.identity(view.size).group, []
        for row, image in enumerate(view.image):
            run = image.nonzero().flatten()
            patches = (prompt.crop[row, run] >= 0).nonzero().flatten()
            order = by_windows(prompt.cls_row[row][:, run[patches]].mean(0), self.windows, self.k)
            slot = torch.full_like(run, DROPPED)
            slot[patches[order]] = torch.arange(len(order), device=slot.device)
            reduce_run(group[row], run, slot)
            missing.append(min(self.k, len(patches)) - len(order))
        view.note("missing", view.images, torch.tensor(missing, device=view.size.device))
        return Reduction(group)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.tokens if batch.prompt is None else int(batch.prompt.count.max())


def by_windows(attention: Tensor, windows: int, count: int) -> Tensor:
    """Tokens kept of one image in the order in which they are handed on: at most ``count``.

    Args:
        attention: ``[n]``. windows: of consecutive tokens, the first ones longer by one where they
            cannot be equal. count: budget, shared by the windows' mean attention.
    """
    parts = [part for part in attention.tensor_split(windows) if len(part)]
    # As in the authors' scale, from which a window of one token is left out.
    scores = torch.stack([(1090 if len(p) > 1 else 1) * p.double().mean() for p in parts])
    share = scores / (scores.sum() + 1e-6)
    quota = (share * count).floor().long()
    left = max(0, count - int(quota.sum()))
    quota[share.argsort(descending=True, stable=True)[:left]] += 1
    kept, first = [], 0
    for part, wanted in zip(parts, quota.tolist(), strict=True):
        order = torch.arange(len(part), device=part.device)
        if wanted < len(part):
            order = part.argsort(descending=True, stable=True)[:wanted]
        kept.append(first + order)
        first += len(part)
    return torch.cat(kept)[:count]
