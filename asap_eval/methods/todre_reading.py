"""ToDRE: visual token pruning by diversity and task relevance (Li et al., arXiv 2505.18757 v2): our
reading of the paper, whose code is not public.

Before the language model the image tokens that differ most from all chosen before are kept, from
the one that the class token attends to most; late in it all of them go, once words hardly look.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.greedy import one_by_one
from asap_eval.tokens import Reduction


@register(
    "todre_reading",
    Card(
        paper="ToDRE, arXiv 2505.18757 (our reading)",
        licence="none public",
        training="training-free",
        knob="k",
        knob_meaning="image tokens per image, of all crops together and newlines included, from 1",
        fixed_count=True,
        deviations="a reading: no code of the authors is public. Left open by the paper and "
        "chosen: the class token of the last used block of the tower; removal at the output of "
        "block 7L/8 (28 of 32), whose text rows decide; newlines compete; position ids are "
        "consecutive after the first stage and kept after the second; ties go to the earlier "
        "token; cosines in fp64",
    ),
)
@dataclass
class TodreReading(Reducer):
    """Keep diverse image tokens, and remove all of them once text no longer attends to them.

    Attributes:
        k: image tokens handed to the language model; an image of fewer keeps them all.
        r: the share of the image tokens instead, rounded (0.1 and 0.25 in the paper). None, like
            ``k``, = 0.1.
        tau: all image tokens go where the words after them give less than this share of their
            attention to them; 0 = never.
        layer: the block that decides so, from 1; None = 7 L / 8.
    """

    k: int | None = None
    r: float | None = None
    tau: float = 0.10
    layer: int | None = None
    tower = "language"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CLS_ROW, Need.FEATURES, Need.ROWS})

    def check(self, batch: Batch) -> None:
        if self.k is not None and self.r is not None:
            raise BadValueError(
                f"todre_reading: k={self.k} and r={self.r} both say what stays: drop r."
            )
        if self.k is not None and self.k < 1:
            raise BadValueError(f"todre_reading: k={self.k}: give at least one image token.")
        if self.r is not None and not 0 < self.r <= 1:
            raise BadValueError(f"todre_reading: r={self.r} is a share: give a value in (0, 1].")
        if not 0 <= self.tau <= 1:
            raise BadValueError(f"todre_reading: tau={self.tau} is a share: give one in [0, 1].")
        if self.layer is not None and not 1 <= self.layer <= batch.depth:
            raise BadValueError(
                f"todre_reading: layer={self.layer}: give 1 to {batch.depth}, or leave it out."
            )

    def begin(self, batch: Batch) -> Batch:
        return batch

    def kept(self, count: int) -> int:
        """Image tokens that stay of ``count`` before the language model."""
        if self.k is not None:
            return min(self.k, count)
        return max(1, round(count * (0.1 if self.r is None else self.r)))

    def admit(self, view: View, state: Batch) -> Reduction | None:
        prompt = state.prompt
        assert prompt is not None  # a host runs a language method on prompts alone
        assert prompt.cls_row is not None
        kept = view.size > 0
        for row, image in enumerate(view.image):
            place = image.nonzero().flatten()
            attention = prompt.cls_row[row][:, place].mean(0)
            pivot = attention.masked_fill(prompt.crop[row, place] != 0, -torch.inf)
            order = diverse(pivot, view.features[row, place], self.kept(len(place)))
            kept[row, place] = False
            kept[row, place[order]] = True
        return Reduction.keep(kept)

    def watch(self, block: int, state: Batch) -> bool:
        at = 7 * state.depth // 8 if self.layer is None else self.layer
        return self.tau > 0 and block == max(at, 1)

    def rows(self, block: int, lengths: Tensor, state: Batch) -> Tensor:
        prompt = state.prompt
        assert prompt is not None
        words = (prompt.lengths - prompt.start - prompt.count)[:, None]
        behind = torch.arange(int(words.max()), 0, -1, device=lengths.device)
        return torch.where(behind <= words, lengths[:, None] - behind, -1)

    def decide(self, view: View, state: Batch) -> Reduction | None:
        prompt = state.prompt
        assert prompt is not None
        share = []
        for row, sample in enumerate(view.images.tolist()):
            words = int((prompt.lengths - prompt.start - prompt.count)[sample])
            share.append(on_image(view.rows[row], view.image[row], words))
        low = torch.stack(share) < self.tau
        return Reduction.keep((view.size > 0) & ~(low[:, None] & view.image))

    def macs(self, view: View, state: Batch) -> Tensor:
        """Cosines of every chosen token but the last with all image tokens."""
        count = view.image.sum(1)
        if view.block:
            return torch.zeros_like(count)
        kept = torch.tensor([self.kept(n) - 1 for n in count.tolist()], device=count.device)
        return kept * count * view.features.shape[-1]

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.tokens if batch.prompt is None else int(batch.prompt.count.max())


def diverse(pivot: Tensor, x: Tensor, count: int) -> Tensor:
    """``[count]`` tokens in the order of choice: the one with the largest ``pivot [n]``, then the
    one whose cosines with all chosen sum to the least; ``x`` is ``[n, D]``."""
    unit = F.normalize(x.double(), dim=-1)
    total = torch.zeros_like(unit[:, 0])

    def gain(chosen: Tensor) -> Tensor:
        total.add_((unit @ unit[chosen].mT)[:, 0])
        return -total[None]

    return one_by_one(pivot.double()[None], gain, count)[0]


def on_image(rows: Tensor, image: Tensor, words: int) -> Tensor:
    """Share of the words' attention that image tokens get, mean over heads.

    Args:
        rows: ``[H, R, N]`` softmax rows of the words, 0 where there is none. image: ``[N]`` bool.
        words: how many rows are words'; 0 = none, and then the share is 0.
    """
    return rows[:, :, image].sum(-1).mean(0).sum() / max(words, 1)
