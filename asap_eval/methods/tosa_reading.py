"""A reading of ToSA, Token Selective Attention (arXiv 2406.08816).

Blocks come in pairs: the first is ordinary, through the second go the patches alone that attention
is predicted to look at; the others skip it and come back at their places. The tokens' number stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.checkpoint import check_there
from asap_eval.errors import BadValueError, WeightsError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.predictors import load_predictors, origin


@dataclass
class Pairs:
    """State of one forward pass. chosen: places of the tokens that run the next block."""

    batch: Batch
    selectors: tuple[nn.Module, ...] = ()
    chosen: dict[int, Tensor] = field(default_factory=dict)


@register(
    "tosa_reading",
    Card(
        paper="a reading of ToSA: Token Selective Attention, arXiv 2406.08816",
        licence="none public",
        training="the authors train selectors and backbone; `asap-eval train` trains selectors on "
        "a frozen one; without a checkpoint the first block's own attention stands in for the "
        "predicted one (ours)",
        knob="k",
        knob_meaning="share of the patches that run every second block, 0 < k <= 1",
        fixed_count=True,
        deviations="a reading: widths, kernel, scaling and schedule of the selectors are unknown; "
        "heads are averaged, the prefix always runs, and a token skips MLP and attention",
    ),
)
@dataclass
class TosaReading(Reducer):
    """Let the most looked-at patches run every second block; the others skip it.

    Attributes:
        k: share of the patches; ``round(k n)`` run.
        checkpoint: one selector for each pair of blocks, under ``predictor.<i>.``: two convolutions
            of kernel 1 over heads, ``conv1`` and ``conv2``. ``None`` = the first block's attention.
    """

    k: float = 0.8
    checkpoint: str | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ATTENTION if self.checkpoint is None else Need.LOGITS})

    def look(self) -> None:
        if self.checkpoint:
            check_there(Path(self.checkpoint).expanduser(), "method.checkpoint")

    def check(self, batch: Batch) -> None:
        if not 0 < self.k <= 1:
            raise BadValueError(f"tosa_reading: k={self.k} is a share: give a value in (0, 1].")
        if self.checkpoint and len(self._selectors(batch)) != batch.depth // 2:
            raise BadValueError(
                f"tosa_reading: {len(self._selectors(batch))} selectors in {self.checkpoint} for "
                f"{batch.depth // 2} pairs of blocks."
            )

    def _selectors(self, batch: Batch) -> tuple[nn.Module, ...]:
        return load_predictors(str(self.checkpoint), self.name, restored, batch.device)

    def begin(self, batch: Batch) -> Pairs:
        return Pairs(batch, self._selectors(batch) if self.checkpoint else ())

    def watch(self, block: int, state: Pairs) -> bool:
        return self.k < 1 and block % 2 == 1 and block < state.batch.depth

    def rows(self, block: int, lengths: Tensor, state: Pairs) -> Tensor:
        """All queries."""
        place = torch.arange(state.batch.tokens, device=lengths.device)
        return place.expand(len(lengths), -1)

    def macs(self, view: View, state: Pairs) -> int:
        """Of a selector: the scores, which a fused kernel does not hand out, and its layers."""
        if not state.selectors:
            return 0
        selector = state.selectors[view.block // 2]
        weights = sum(layer.weight.numel() for layer in selector.children())  # type: ignore
        return view.size.shape[1] ** 2 * (weights + state.batch.width)

    def decide(self, view: View, state: Pairs) -> None:
        if state.selectors:
            self._check_heads(view, state)
            importance = state.selectors[view.block // 2](view.logits).exp().mean((1, 2))
        else:
            importance = view.attention.mean(1)
        keep = max(1, round(self.k * state.batch.patches))
        order = importance[:, view.prefix :].argsort(dim=1, descending=True, stable=True)
        patches = order[:, :keep].sort(dim=1).values + view.prefix
        front = torch.arange(view.prefix, device=order.device).expand(len(order), -1)
        state.chosen[view.block + 1] = torch.cat([front, patches], 1)

    def _check_heads(self, view: View, state: Pairs) -> None:
        heads = state.selectors[view.block // 2].conv1.in_features  # type: ignore[union-attr]
        if heads != view.logits.shape[1]:
            raise WeightsError(
                f"tosa_reading: the selectors of {self.checkpoint} read {heads} heads, this model "
                f"has {view.logits.shape[1]}. Give the checkpoint made for this model."
            )

    def runs(self, block: int, state: Pairs) -> Tensor | None:
        return state.chosen.get(block)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1 / batch.patches, 1.0

    def origin(self) -> dict[str, Any]:
        return origin(self.checkpoint) if self.checkpoint else {}


class Selector(nn.Module):
    """Predicts the logarithm of the next block's attention, ``[b, H, N, N]``, from scores."""

    def __init__(self, heads: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Linear(heads, hidden)
        self.conv2 = nn.Linear(hidden, heads)

    def forward(self, scores: Tensor) -> Tensor:
        # A convolution of kernel 1 over heads is a linear layer at every pair of tokens.
        by_pair = self.conv2(self.conv1(scores.permute(0, 2, 3, 1)).relu())
        return by_pair.permute(0, 3, 1, 2).log_softmax(-1)


def restored(state: Mapping[str, Tensor]) -> Any:
    """The selector of a state dict."""
    hidden, heads = state["conv1.weight"].shape[:2]
    return Selector(heads, hidden)
