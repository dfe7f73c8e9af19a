"""FNA: fast Nystroem attention (Lu et al., arXiv 2507.16018).

Attention through a few landmark tokens, work linear in the number of tokens. No token is removed:
the method replaces the attention product of some blocks and belongs on an axis of its own. Where
attention products are a small part of the work (8 % of DeiT-S), so is all it can save.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Reducer, View, register
from asap_eval.methods.parts import nystroem
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.tokens import Reduction


@dataclass
class Landmarks:
    """State of one forward pass.

    Attributes:
        blocks: blocks whose attention is replaced, from 0.
        index: ``[B, M]`` landmark tokens, from the first of those blocks on.
        heads, width: H and d of the block that ran last.
    """

    blocks: tuple[int, ...]
    index: Tensor | None = None
    heads: int = 0
    width: int = 0


@register(
    "fna",
    Card(
        paper="Artifacts and Attention Sinks: Structured Approximations for Efficient Vision "
        "Transformers, arXiv 2507.16018",
        licence="none in the authors' repository",
        training="training-free",
        knob="m",
        knob_meaning="landmarks M, from 1 to the number of tokens; removes no tokens",
        fixed_count=True,
        deviations="landmarks from the mean of the heads' queries, as in the authors' CLIP "
        "notebook, without their masks of guaranteed and excluded tokens; the inverse is fp32 "
        "whatever the model runs in; its MACs, less those of the products replaced, are the "
        "method's own and may be negative",
        counts_more="distances between queries, by which landmarks are chosen",
    ),
)
@dataclass
class FNA(Reducer):
    """Replace the attention of the listed blocks by its Nystroem approximation.

    MACs: a host counts both products of a block's own attention, ``2 N^2 H d``. They do not run
    here, so the method reports the difference: ``4 N M H d + 2 M^2 H d + 24 H M^3`` of its own (and
    once ``M N d`` for the distances that choose the landmarks) minus theirs. It is negative where
    the method saves work.

    Attributes:
        m: number of landmarks.
        blocks: blocks counted from 0 as the authors do; None = those from L/2 + 1 on (13 to 23 of
            24, their setting for CLIP ViT-L/14).
    """

    m: int = 64
    blocks: list | None = None

    def check(self, batch: Batch) -> None:
        if not 1 <= self.m <= batch.tokens:
            raise BadValueError(
                f"fna: m={self.m} landmarks of {batch.tokens} tokens: give 1 to {batch.tokens}."
            )
        self._replaced(batch.depth)

    def _replaced(self, depth: int) -> tuple[int, ...]:
        blocks = list(range(depth // 2 + 1, depth)) if self.blocks is None else self.blocks
        return locations(self.name, blocks, depth)

    def begin(self, batch: Batch) -> Landmarks:
        return Landmarks(self._replaced(batch.depth))

    def attends(self, block: int, state: Landmarks) -> bool:
        return block - 1 in state.blocks

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, state: Landmarks
    ) -> Tensor:
        if state.index is None:
            state.index = nystroem.farthest_points(q.float().mean(1), self.m)
        state.heads, state.width = q.shape[1], q.shape[3]
        return nystroem.attention(q, k, v, state.index)

    def watch(self, block: int, state: Landmarks) -> bool:
        return self.attends(block, state)

    def decide(self, view: View, state: Landmarks) -> Reduction | None:
        return None

    def macs(self, view: View, state: Landmarks) -> int:
        tokens, m = view.size.shape[1], self.m
        wide = state.heads * state.width
        own = (4 * tokens * m + 2 * m**2) * wide + 4 * nystroem.ITERATIONS * state.heads * m**3
        choosing = m * tokens * state.width if view.block - 1 == state.blocks[0] else 0
        return own + choosing - 2 * tokens**2 * wide

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1.0, float(batch.tokens)
