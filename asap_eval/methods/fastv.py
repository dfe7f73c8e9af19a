"""FastV: An Image is Worth 1/2 Tokens After Layer 2 (Chen et al., arXiv 2403.06764).

After a few layers of the language model the image tokens that the prompt's last token attends to
least are removed, once, while the prompt is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.selection import most_attended
from asap_eval.tokens import Reduction


@register(
    "fastv",
    Card(
        paper="An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration "
        "for Large Vision-Language Models, arXiv 2403.06764",
        licence="see repository pkunlp-icler/FastV",
        training="training-free",
        knob="k",
        knob_meaning="image tokens per image, of all crops together: those left after layer K "
        "(budget=kept), or their mean over all layers (budget=mean)",
        fixed_count=True,
        deviations="pruned once, at the prompt (without a cache theirs prunes anew at every step, "
        "and answers differently); no random choice at K=0",
    ),
)
@dataclass
class FastV(Reducer):
    """Keep the image tokens that the last token of the prompt attends to most, after layer K.

    Tokens that stay keep their position ids. All image tokens of a sample compete, newlines of
    several crops included.

    Attributes:
        k: image tokens, counted as ``budget`` says.
        r: the authors' R instead: share of the image tokens removed. None, like ``k``, = 0.5.
        layer: the authors' K >= 1: the first K layers see all tokens, the K-th decides.
        budget: ``kept`` = left after layer K; ``mean`` = mean over all layers, the first K at full
            length: with K=2 of 32 and 576 tokens a mean of 64, 128, 192 leaves 30, 98, 166.
    """

    k: int | None = None
    r: float | None = None
    layer: int = 2
    budget: Literal["kept", "mean"] = "kept"
    tower = "language"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ROWS})

    def check(self, batch: Batch) -> None:
        if self.k is not None and self.r is not None:
            raise BadValueError(f"fastv: k={self.k} and r={self.r} both say what stays: give one.")
        if self.r is not None and not 0 <= self.r < 1:
            raise BadValueError(f"fastv: r={self.r} is a share: give a value in [0, 1).")
        if self.k is not None and self.k < 1:
            raise BadValueError(f"fastv: k={self.k}: give at least one image token.")
        if not 1 <= self.layer < batch.depth:
            raise BadValueError(
                f"fastv: layer={self.layer}: give 1 to {batch.depth - 1}; the layers after it see "
                "fewer tokens."
            )

    def begin(self, batch: Batch) -> Batch:
        return batch

    def watch(self, block: int, state: Batch) -> bool:
        return block == self.layer

    def rows(self, block: int, lengths: Tensor, state: Batch) -> Tensor:
        return lengths[:, None] - 1

    def kept(self, count: int, depth: int) -> int:
        """Image tokens left of ``count`` in a model of ``depth`` layers."""
        if self.k is None:
            return round(count * (1 - (0.5 if self.r is None else self.r)))
        if self.budget == "kept":
            return min(self.k, count)
        left = round((self.k * depth - self.layer * count) / (depth - self.layer))
        if left < 1:
            least = -(-(self.layer * count + depth - self.layer) // depth)
            raise BadValueError(
                f"fastv: k={self.k} as a mean over {depth} layers cannot be reached: {self.layer} "
                f"of them see all {count} image tokens. Give at least {least}, or a smaller layer."
            )
        return min(left, count)

    def decide(self, view: View, state: Batch) -> Reduction | None:
        counts = view.image.sum(1).tolist()
        keep = torch.tensor([self.kept(n, state.depth) for n in counts], device=view.size.device)
        kept = most_attended(view.rows[:, :, 0].mean(1), view.image, keep)
        return Reduction.keep((view.size > 0) & (kept | ~view.image))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.tokens if batch.prompt is None else int(batch.prompt.count.max())
