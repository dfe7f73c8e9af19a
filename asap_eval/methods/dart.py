"""DART: Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More
(Wen et al., arXiv 2502.11494).

After a few layers of the language model some tokens with large keys are pivots; of the other image
tokens those stay that resemble a pivot least, once, while the prompt is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.tokens import Reduction


@register(
    "dart",
    Card(
        paper="Stop Looking for Important Tokens in Multimodal Language Models: Duplication "
        "Matters More, arXiv 2502.11494",
        licence="Apache-2.0 (the authors' repository; read in a port, LightCompress)",
        training="training-free",
        knob="k",
        knob_meaning="budget B of image tokens per image, of all crops together: after layer K "
        "4 + 8 floor(B / 8) are left",
        fixed_count=True,
        deviations="from a public port, the authors' own file not being retrievable; pivots in the "
        "order of their norms (theirs: that of a Python set, which keeps other tokens); cosines in "
        "fp64; fewer pivots where the prompt has fewer tokens behind the image",
    ),
)
@dataclass
class Dart(Reducer):
    """Keep the pivots and the image tokens that resemble one of them least, after layer K.

    Pivots are the image tokens, and the tokens of text behind the image, whose keys have the
    largest L1 norm. Pivot after pivot, as many image tokens as each is due are kept. Tokens that
    stay keep their position ids. All image tokens of a sample compete, newlines included.

    Attributes:
        k: the authors' budget B. r: their reduction ratio R instead, B = n (1 - R) of n image
            tokens. None, like ``k``, = 128.
        layer: the authors' K >= 1: the first K layers see all tokens.
        pivot_image, pivot_text: pivots of either kind.
    """

    k: int | None = None
    r: float | None = None
    layer: int = 2
    pivot_image: int = 4
    pivot_text: int = 4
    tower = "language"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.KEYS, Need.NORMED})

    def check(self, batch: Batch) -> None:
        if self.k is not None and self.r is not None:
            raise BadValueError(f"dart: k={self.k} and r={self.r} both say what stays: drop r.")
        if self.k is not None and self.k < 1:
            raise BadValueError(f"dart: k={self.k}: give at least one image token.")
        if self.r is not None and not 0 <= self.r < 1:
            raise BadValueError(f"dart: r={self.r} is a share: give a value in [0, 1).")
        if not 1 <= self.layer < batch.depth:
            raise BadValueError(
                f"dart: layer={self.layer}: give 1 to {batch.depth - 1}; the layers after it see "
                "fewer tokens."
            )
        if self.pivot_image < 1 or self.pivot_text < 0:
            raise BadValueError(
                f"dart: pivot_image={self.pivot_image}, pivot_text={self.pivot_text}: give at "
                "least one pivot in the image, and none or more in the text."
            )

    def watch(self, block: int, state: None) -> bool:
        return block == self.layer

    def _each(self, count: int, pivots: int) -> int:
        """Image tokens that every pivot adds, of ``count`` in all."""
        budget = (128 if self.k is None else self.k) if self.r is None else count * (1 - self.r)
        return int(budget // pivots)

    def decide(self, view: View, state: None) -> Reduction | None:
        kept = view.size > 0
        for row in range(len(kept)):
            image = view.image[row].nonzero().flatten()
            first, second = self._pivots(view, row)
            each = self._each(len(image), len(first) + len(second))
            chosen = unlike(view.normed[row], image, [*first, *second], each)
            kept[row, image] = False
            kept[row, [*first, *chosen]] = True
        return Reduction.keep(kept)

    def _pivots(self, view: View, row: int) -> tuple[list[int], list[int]]:
        """Positions of a sample's pivots in the image and behind it, by falling norm."""
        norm = view.keys[row].float().abs().sum((0, 2))
        image = view.image[row]
        place = torch.arange(len(image), device=image.device)
        behind = (view.size[row] > 0) & ~image & (place > place[image].max())
        return largest(norm, image, self.pivot_image), largest(norm, behind, self.pivot_text)

    def macs(self, view: View, state: None) -> Tensor:
        """Cosines of every image token with every pivot."""
        count = view.image.sum(1)
        place = torch.arange(view.image.shape[1], device=count.device)
        last = torch.where(view.image, place, -1).amax(1)
        behind = view.lengths - 1 - last
        pivots = count.clamp(max=self.pivot_image) + behind.clamp(max=self.pivot_text)
        return count * pivots * view.normed.shape[-1]

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.tokens if batch.prompt is None else int(batch.prompt.count.max())


def largest(norm: Tensor, among: Tensor, count: int) -> list[int]:
    """Positions of the ``count`` largest norms ``[N]`` among a mask ``[N]``, falling."""
    places = among.nonzero().flatten()
    order = norm[places].argsort(descending=True, stable=True)[:count]
    return places[order].tolist()


def unlike(state: Tensor, image: Tensor, pivots: Sequence[int], each: int) -> list[int]:
    """Positions of the image tokens that the pivots add, pivot after pivot: the least similar ones
    that are not taken yet. Pivots in the image are taken from the outset.

    Args:
        state: ``[N, D]`` compared by cosine. image: ``[n]`` positions of the image tokens.
        pivots: their positions, in the order in which they choose. each: tokens that a pivot adds.
    """
    unit = F.normalize(state.double(), dim=-1)
    cosine = unit[image] @ unit[torch.tensor(pivots, device=image.device)].mT
    taken = torch.isin(image, torch.tensor(pivots, device=image.device))
    found: list[int] = []
    for column in cosine.unbind(1):
        order = column.masked_fill(taken, torch.inf).argsort(stable=True)
        least = order[: min(each, int((~taken).sum()))]
        taken[least] = True
        found += image[least].tolist()
    return found
