"""Sparsifiner: Learning Sparse Instance-Dependent Attention (Wei et al., arXiv 2303.13755).

In every block a low-rank predictor guesses which keys each query will look at; attention is over
those alone. No token is removed: like FNA it belongs on an axis of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from asap_eval.checkpoint import check_there
from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Reducer, View, register
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.methods.parts.connectivity import MaskPredictor, load_masks, strongest
from asap_eval.methods.parts.predictors import origin
from asap_eval.tokens import Reduction


@dataclass
class Sparse:
    """State of one forward pass.

    Attributes:
        batch: the batch. predictors: one for each block.
        active: ``[B, N]`` bool, tokens not masked.
        block: from 1, the one that runs. entries: ``[B]`` kept entries of all its heads.
        heads, width: H and d of it.
    """

    batch: Batch
    predictors: tuple[MaskPredictor, ...]
    active: Tensor
    block: int = 0
    entries: Tensor | None = None
    heads: int = 0
    width: int = 0


@register(
    "sparsifiner",
    Card(
        paper="Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision "
        "Transformers, arXiv 2303.13755",
        licence="MIT",
        training="the authors train predictors and backbone and publish neither: give a checkpoint "
        "of predictors (`asap-eval train` makes one on a frozen backbone), or by=attention (upper "
        "bound) or by=local, which need none (ours)",
        knob="k",
        knob_meaning="share of the keys that each query keeps, 0 < k <= 1; removes no tokens",
        fixed_count=True,
        deviations="entries of a guess that are 0 are not filled up with arbitrary keys, and a "
        "query without any sees all; "
        "distillation and register tokens keep full rows; a token mask keeps the active keys there "
        "are; its MACs are what sparse attention would need, less the dense products, and may be "
        "negative: here the product runs dense and is masked",
        counts_less="masked entries of the dense products that run here",
    ),
)
@dataclass
class Sparsifiner(Reducer):
    """Attend to the keys of the largest guessed weights; the class token attends to all.

    Attributes:
        k: share of the keys: ``ceil(k N)`` for each query.
        by: what chooses them: trained predictors; the true attention, as the best guess there is;
            or nearness on the grid.
        checkpoint: predictors under ``blocks.<i>.attn.mask_predictor.``, one for each block.
        top: coefficients of a row that count. least: entries of the basis below count as 0.
        keep: rate of the token masks; 1 = none. blocks: their places, counted from 0; ``None`` = at
            L/4, L/2 and 3L/4. Masked patches take part in nothing but keep their places.
    """

    k: float = 0.25
    by: Literal["predictors", "attention", "local"] = "predictors"
    checkpoint: str | None = None
    top: int = 8
    least: float = 0.02
    keep: float = 1.0
    blocks: list | None = None

    def look(self) -> None:
        if self.by != "predictors":
            return
        if self.checkpoint is None:
            raise BadValueError(
                "sparsifiner: its predictors have to be trained, random ones mean nothing. Give "
                "method.checkpoint=<file>; `asap-eval train method=sparsifiner model=<model> "
                "data=<folder> out=<file>` makes one. method.by=attention and method.by=local are "
                "controls that need none."
            )
        check_there(Path(self.checkpoint).expanduser(), "method.checkpoint")

    def check(self, batch: Batch) -> None:
        if not 0 < self.k <= 1 or not 0 < self.keep <= 1 or self.top < 1 or self.least < 0:
            raise BadValueError(
                f"sparsifiner: k={self.k}, keep={self.keep}, top={self.top}, least={self.least}: "
                "give shares in (0, 1], at least one coefficient, and a least entry >= 0."
            )
        self.look()
        if self.by != "predictors":
            return
        found = load_masks(str(self.checkpoint), "cpu")
        sizes = sorted({predictor.tokens for predictor in found})
        if len(found) != batch.depth or sizes != [batch.tokens]:
            raise BadValueError(
                f"sparsifiner: {len(found)} predictors for {sizes} tokens in {self.checkpoint}; "
                f"this model has {batch.depth} blocks and {batch.tokens} tokens."
            )

    def begin(self, batch: Batch) -> Sparse:
        trained = self.by == "predictors" and self.k < 1
        found = load_masks(str(self.checkpoint), batch.device) if trained else ()
        active = torch.ones(batch.count, batch.tokens, dtype=torch.bool, device=batch.device)
        return Sparse(batch, found, active)

    def attends(self, block: int, state: Sparse) -> bool:
        state.block = block  # `attend`, which is asked next, has no other way to know it
        return self.k < 1 or self.keep < 1

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, state: Sparse) -> Tensor:
        state.heads, state.width = q.shape[1], q.shape[3]
        wide = torch.promote_types(q.dtype, torch.float32)
        active = state.active[:, None, :, None]
        q_, k_, v_ = (t.to(wide) * active for t in (q, k, v))
        logits = q_ @ k_.mT * q.shape[-1] ** -0.5
        mask = self._mask(q_, k_, logits, state)
        state.entries = mask.sum((1, 2, 3))
        maps = logits.masked_fill(~mask, -torch.inf).softmax(-1)
        self._mask_tokens(maps, state)
        return (maps @ v_).to(q.dtype)

    def _mask(self, q: Tensor, k: Tensor, logits: Tensor, state: Sparse) -> Tensor:
        """``[B, H, N, N]`` bool, which keys each query sees; the prefix sees all."""
        prefix, tokens = state.batch.prefix, q.shape[2]
        count = math.ceil(self.k * tokens)
        if state.predictors:
            predictor = state.predictors[state.block - 1]
            guess = predictor(q, k, state.active, prefix, self.top, self.least)
        elif self.by == "local":
            guess = nearness(state.batch, q)[None, None].expand(*q.shape[:2], -1, -1)
        else:
            seen = logits.masked_fill(~state.active[:, None, None], -torch.inf)
            guess = seen.softmax(-1)[:, :, prefix:]
        guess = guess.masked_fill(~state.active[:, None, None], 0)
        rows = strongest(guess, count)
        # A masked query is read by nobody; without any key its softmax would be 0 / 0.
        idle = ~state.active[:, None, prefix:, None]
        full = torch.ones_like(rows[:, :, :1]).expand(-1, -1, prefix, -1)
        return torch.cat([full, rows | idle | ~rows.any(-1, keepdim=True)], 2)

    def _mask_tokens(self, maps: Tensor, state: Sparse) -> None:
        """At a place, only the patches that the class token attends to most stay active."""
        places = locations(self.name, self.blocks, state.batch.depth)
        if self.keep == 1 or state.block - 1 not in places:
            return
        prefix = state.batch.prefix
        rate = self.keep ** (places.index(state.block - 1) + 1)
        count = math.ceil(rate * state.batch.patches)
        row = maps[:, :, 0, prefix:].mean(1).masked_fill(~state.active[:, prefix:], -1)
        rank = row.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        state.active = torch.cat([state.active[:, :prefix], rank < count], 1)

    def watch(self, block: int, state: Sparse) -> bool:
        return self.k < 1 or self.keep < 1

    def decide(self, view: View, state: Sparse) -> Reduction | None:
        return None

    def macs(self, view: View, state: Sparse) -> Tensor:
        assert state.entries is not None
        tokens, wide = state.batch.tokens, state.heads * state.width
        own = 2 * state.entries * state.width
        if state.predictors:
            own = own + state.predictors[state.block - 1].macs(state.heads, state.batch.prefix)
        return (own - 2 * tokens**2 * wide)[view.images]

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1 / batch.tokens, 1.0

    def origin(self) -> dict[str, Any]:
        return origin(str(self.checkpoint)) if self.by == "predictors" else {}


def nearness(batch: Batch, like: Tensor) -> Tensor:
    """``[P, N]`` positive, larger for keys nearer on the grid; prefix tokens are nearest."""
    rows, columns = (torch.arange(side, device=like.device) for side in batch.grid)
    place = torch.cartesian_prod(rows, columns)
    square = (place[:, None] - place).square().sum(-1).to(like.dtype)
    near = 1 / (1 + square)
    front = near.new_full((batch.patches, batch.prefix), 2)
    return torch.cat([front, near], 1)
