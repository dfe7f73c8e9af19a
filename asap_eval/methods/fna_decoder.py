"""FNA in the decoder: fast Nystroem attention (Lu et al., arXiv 2507.16018) in a language model.

While the prompt is read, late layers attend through a few landmark tokens, and their caches keep
the landmarks alone. No token is removed, so a row of it is no row of so many tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Prompt, Reducer, View, register
from asap_eval.methods.parts import nystroem
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.tokens import Reduction


@dataclass
class Reading:
    """State of one forward pass.

    Attributes:
        prompt: the prompts. blocks: blocks whose attention is replaced, from 0.
        index: landmarks of each sample, ``[M]``, from the first of those blocks on.
        kept: their keys and values, ``[B, H, M, d]``, padding at the end, of the block that ran
            last.
        heads, width: H and d of that block.
    """

    prompt: Prompt
    blocks: tuple[int, ...]
    index: list[Tensor] = field(default_factory=list)
    kept: tuple[Tensor, Tensor] | None = None
    heads: int = 0
    width: int = 0

    @property
    def counts(self) -> Tensor:
        """``[B]`` landmarks of each sample."""
        return torch.tensor([len(index) for index in self.index], device=self.prompt.lengths.device)


@register(
    "fna_decoder",
    Card(
        paper="Artifacts and Attention Sinks: Structured Approximations for Efficient Vision "
        "Transformers, arXiv 2507.16018",
        licence="none in the authors' repository",
        training="training-free",
        knob="m",
        knob_meaning="landmarks M >= 1 of a prompt, its words among them (all tokens of a shorter "
        "prompt); removes no tokens",
        fixed_count=True,
        deviations="while the prompt is read products keep the model's causal mask (the authors' "
        "ignore it: causal=false) and heads are joined in their order (theirs mixes them with the "
        "tokens, probably a bug: mixed=true); landmarks from the mean of the heads' queries alone, "
        "chosen once; the inverse is at least fp32; its MACs, less those of the products replaced, "
        "are the method's own and may be negative",
        counts_more="distances between queries, by which landmarks are chosen",
    ),
)
@dataclass
class FNADecoder(Reducer):
    """Replace the prompt's attention in the listed layers by its Nystroem approximation.

    Landmarks are all words of the prompt (its first M where there are more) and then image tokens,
    from the first on each the farthest from those before. The cache of such a layer keeps their
    keys and the values made for them; new tokens attend to these, and to each other exactly.

    Causal products are our reading: attention among the landmarks, from them to all tokens and from
    all tokens to them never looks ahead. The steps of the inverse then let a little of later
    landmarks into earlier tokens, until they converge. The true inverse of causal attention is no
    way out: it overflows where tokens attend little to themselves.

    MACs: as of `fna`, ``4 N M H d + 2 M^2 H d + 4 S H M^3`` for S steps (and once ``(M - words) n
    d`` to choose among n image tokens) minus ``2 N^2 H d`` of the attention replaced.

    Attributes:
        m: number of landmarks.
        blocks: layers counted from 0 as the authors do, never the first; None = their default, from
            3 L / 8 on (12 to 31 of 32; they tried 12, 14, 16, 18 and 20 with 16 to 512 landmarks).
        causal: whether products keep the causal mask; False = as the authors' code.
        mixed: whether the output ``[H, N, d]`` is read as ``[N, H d]`` without swapping its axes,
            as the authors' code for Llama does and that for CLIP does not.
        iterations: steps of the inverse; the authors' are 6. Where all tokens are landmarks more of
            them approach exact attention over the prompt; decoding then still reads the values made
            for landmarks, which are the tokens' own only where attention is well-conditioned.
    """

    m: int = 256
    blocks: list | None = None
    causal: bool = True
    mixed: bool = False
    iterations: int = nystroem.ITERATIONS
    tower = "language"

    def check(self, batch: Batch) -> None:
        if self.m < 1 or self.iterations < 1:
            raise BadValueError(
                f"fna_decoder: m={self.m} landmarks and iterations={self.iterations}: give at "
                "least 1 of each."
            )
        if 0 in self._replaced(batch.depth):
            raise BadValueError(
                "fna_decoder: blocks has layer 0, whose cache counts positions: begin with 1."
            )

    def _replaced(self, depth: int) -> tuple[int, ...]:
        blocks = list(range(3 * depth // 8, depth)) if self.blocks is None else self.blocks
        return locations(self.name, blocks, depth)

    def begin(self, batch: Batch) -> Reading:
        assert batch.prompt is not None  # a host runs a language method on prompts alone
        return Reading(batch.prompt, self._replaced(batch.depth))

    def attends(self, block: int, state: Reading) -> bool:
        return block - 1 in state.blocks

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, state: Reading
    ) -> Tensor:
        if not state.index:
            state.index = self._landmarks(q, state.prompt)
        state.heads, state.width = q.shape[1], q.shape[3]
        out, keys, values = torch.zeros_like(q), [], []
        for sample, (count, index) in enumerate(
            zip(state.prompt.lengths, state.index, strict=True)
        ):
            one, n = slice(sample, sample + 1), int(count)
            mine, its_k, its_v = (t[one, :, :n] for t in (q, k, v))
            mask = bias[:, :, :n, :n] if self.causal and bias is not None else None
            over = None if mask is None else mask[:, :, index]
            key, value = nystroem.landmarks(mine, its_k, its_v, index[None], over, self.iterations)
            to = None if mask is None else mask[..., index]
            found = scaled_dot_product_attention(mine, key, value, attn_mask=to)
            if self.mixed:
                found = found.reshape(1, n, state.heads, -1).transpose(1, 2)
            out[one, :, :n] = found
            keys.append(key[0].transpose(0, 1))
            values.append(value[0].transpose(0, 1))
        padded = [pad_sequence(t, batch_first=True).transpose(1, 2) for t in (keys, values)]
        state.kept = padded[0], padded[1]
        return out

    def _landmarks(self, q: Tensor, prompt: Prompt) -> list[Tensor]:
        """``[M]`` tokens of each sample."""
        queries, chosen = q.float().mean(1), []
        for sample, (length, start, count) in enumerate(
            zip(*(t.tolist() for t in (prompt.lengths, prompt.start, prompt.count)), strict=True)
        ):
            place = torch.arange(length, device=q.device)
            image = (place >= start) & (place < start + count)
            words = place[~image][: self.m]
            left = min(self.m - len(words), count)
            picked = place[:0]
            if left:
                features = queries[sample : sample + 1, start : start + count]
                picked = start + nystroem.farthest_points(features, left)[0]
            elif self.causal and image[0]:
                raise BadValueError(
                    f"fna_decoder: m={self.m} landmarks are all words, and this prompt begins with "
                    f"its image: no landmark precedes it. Give m > {len(place) - count}."
                )
            chosen.append(torch.cat([words, picked]))
        return chosen

    def cached(self, block: int, state: Reading) -> tuple[Tensor, Tensor, Tensor] | None:
        return None if state.kept is None else (*state.kept, state.counts)

    def watch(self, block: int, state: Reading) -> bool:
        return self.attends(block, state)

    def decide(self, view: View, state: Reading) -> Reduction | None:
        return None

    def macs(self, view: View, state: Reading) -> Tensor:
        tokens, m = view.lengths, state.counts[view.images]
        wide, image = state.heads * state.width, view.image.sum(1)
        own = (4 * tokens * m + 2 * m**2) * wide + 4 * self.iterations * state.heads * m**3
        if view.block - 1 == state.blocks[0]:
            own += (m - (tokens - image)).clamp(min=0) * image * state.width
        return own - 2 * tokens**2 * wide

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1.0, float(batch.tokens)
