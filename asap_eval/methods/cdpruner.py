"""CDPruner: Beyond Attention or Similarity, Maximizing Conditional Diversity for Token Pruning in
MLLMs (Zhang et al., arXiv 2506.10967).

Each crop keeps the patches that a determinantal point process finds most diverse, weighted by how
relevant CLIP's text tower says they are to the question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.files.fingerprint import content_of
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts import clip_text
from asap_eval.methods.parts.greedy import chosen_mask, cosines
from asap_eval.methods.parts.selection import check_count
from asap_eval.packing import Crops, base_then_raster
from asap_eval.tokens import Reduction

NOTHING = 1e-12
"""Share of the largest gain below which a gain is rounding: all directions are taken."""


@dataclass
class Asked:
    """State of one forward pass.

    Attributes:
        sample: ``[B]`` sample of each crop. text: ``[M, E]`` of each sample's question. side: CLIP.
    """

    sample: Tensor
    text: list[Tensor]
    side: clip_text.TextSide


@register(
    "cdpruner",
    Card(
        paper="Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning "
        "in MLLMs, arXiv 2506.10967",
        licence="Apache-2.0",
        training="training-free; needs a CLIP checkpoint with its text tower (method.clip)",
        knob="k",
        knob_meaning="tokens handed on per crop, from 1 to the patches",
        fixed_count=True,
        deviations="where the features have no further direction the rest is filled by relevance, "
        "and the trace's note `filled` counts it (theirs takes a root of a negative number there "
        "and hands on fewer); kernel and choice in fp64; the question as the task asks it",
    ),
)
@dataclass
class CDPruner(Reducer):
    """Hand on relevant and diverse patches of every crop, in raster order.

    Behind the projector. Relevance is brought to [0, 1] over all crops of a sample together. Of
    several crops: the base crop, then the tiles' patches in raster order of the stitched grid,
    padding included and without newlines.

    Attributes:
        k: tokens handed on per crop.
        clip: folder or hub name of the CLIP that the model's tower is from.
        packing: of several crops: the authors' as above, or ``spatial``: the model's own, without
            padding and with newlines.
    """

    k: int = 64
    clip: str | None = None
    packing: Literal["authors", "spatial"] = "authors"
    site = "output"
    tallies: ClassVar[Mapping[str, str]] = {
        "filled": "image tokens taken by relevance alone, where the features have no further "
        "direction (the authors' code takes a root of a negative number there)"
    }

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.FEATURES, Need.PROJECTED})

    def look(self) -> None:
        clip_text.named(self.name, self.clip)

    def check(self, batch: Batch) -> None:
        check_count(self.name, self.k, batch.patches)
        clip_text.given(self.name, self.clip, batch.device)

    def begin(self, batch: Batch) -> Asked:
        side = clip_text.given(self.name, self.clip, batch.device)
        sample = torch.arange(batch.count) if batch.sample is None else batch.sample
        text = [side.embed(batch.question(one)) for one in range(int(sample.max()) + 1)]
        return Asked(sample, text, side)

    def decide(self, view: View, state: Asked) -> Reduction | None:
        patches = state.side.embed_patches(view.features[:, view.prefix :])
        score = view.projected.new_empty(patches.shape[:2], dtype=torch.float64)
        for one, text in enumerate(state.text):
            crops = (state.sample == one).to(view.size.device)
            score[crops] = relevance(patches[crops], text)
        order, found = conditional(cosines(view.projected), score, self.k)
        view.note("filled", view.images, self.k - found)
        kept = chosen_mask(order, score.shape[1])
        return Reduction.keep(F.pad(kept, (view.prefix, 0), value=True))

    def macs(self, view: View, state: Asked) -> Tensor:
        """Patches through CLIP's projection and against the text, cosines of all pairs, the choice
        (from its third step on: before, its sums have one term at most); on a sample's first crop
        its text through CLIP."""
        count, weight = view.projected.shape[1], state.side.model.visual_projection.weight
        segments = torch.tensor([len(text) for text in state.text])[state.sample]
        own = count * weight.numel() + segments * count * len(weight)
        own = own + count**2 * view.projected.shape[2] + sum(range(2, self.k)) * count
        first = torch.ones_like(state.sample, dtype=torch.bool)
        first[1:] = state.sample[1:] != state.sample[:-1]
        text = torch.tensor([state.side.macs(int(n)) for n in segments])
        return (own + torch.where(first, text, 0)).to(view.size.device)

    def pack(self, crops: Crops) -> Tensor | None:
        return None if self.packing == "spatial" else base_then_raster(crops)

    def origin(self) -> dict[str, Any]:
        if self.clip is None:
            return {}
        folder = Path(self.clip).expanduser()
        held = {"content": content_of(sorted(folder.iterdir()))} if folder.is_dir() else {}
        return {"clip": self.clip, **held}

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.patches


def relevance(patches: Tensor, text: Tensor) -> Tensor:
    """``[C, P]`` fp64 in (0, 1] of one sample's crops: minus the mean cosine with the text, as
    CLIP's patches score against their meaning.

    Args:
        patches: ``[C, P, E]``. text: ``[M, E]``.
    """
    unit = F.normalize(patches.double(), dim=-1)
    score = -(unit @ F.normalize(text.double(), dim=-1).mT).mean(-1)
    return (score - score.amin() + 1e-6) / (score.amax() - score.amin())


def conditional(similarity: Tensor, weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Greedy choice of the determinantal point process ``weight_i similarity_ij weight_j``.

    Args:
        similarity: ``[b, n, n]`` cosines. weight: ``[b, n]``.

    Returns:
        ``[b, count]`` tokens in the order of choice, and ``[b]`` how many of them the process
        chose: the others are those of largest weight.
    """
    kernel = weight[:, :, None] * similarity * weight[:, None]
    gain = kernel.diagonal(dim1=1, dim2=2).clone()
    least = NOTHING * gain.amax(1, keepdim=True)
    found = torch.zeros(len(gain), dtype=torch.long, device=gain.device)
    factors = gain.new_zeros(len(gain), count, gain.shape[1])
    taken = torch.zeros_like(gain, dtype=torch.bool)
    order = []
    for step in range(count):
        best, chosen = gain.masked_fill(taken, -torch.inf).max(1, keepdim=True)
        exhausted = best <= least
        rest = weight.masked_fill(taken, -torch.inf).argmax(1, keepdim=True)
        chosen = torch.where(exhausted, rest, chosen)
        found += ~exhausted[:, 0]
        order.append(chosen[:, 0])
        taken.scatter_(1, chosen, True)
        row = kernel.take_along_dim(chosen[..., None], 1)
        before = factors[:, :step]
        row = row - before.take_along_dim(chosen[..., None], 2).mT @ before
        row = row[:, 0] / best.clamp(min=least).sqrt()
        factors[:, step] = torch.where(exhausted, 0, row)
        # What rounding alone is left of never looks like a gain again.
        gain = torch.where(exhausted, -torch.inf, gain - factors[:, step].square())
    return torch.stack(order, 1), found
