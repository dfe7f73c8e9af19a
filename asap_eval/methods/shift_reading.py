"""A reading of attention-shift-aware pruning (arXiv 2603.14549), not its authors' method.

What is known of it: attention between image tokens is computed again with a mask that lets salient
tokens be seen by earlier ones; the tokens that then get most attention are kept, similar ones are
merged, and the places that become free are filled. Its formulas and constants are not known here:
they are options, with defaults of ours. No row of it is a row of that paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.tokens import DROPPED, Reduction, reduce_run


@register(
    "shift_reading",
    Card(
        paper="ours: a reading of what is known of arXiv 2603.14549",
        licence="ours; no code of theirs is known",
        training="training-free",
        knob="k",
        knob_meaning="image tokens left after the acting layer, of all crops together",
        fixed_count=True,
        deviations="formula of the salience, cap of the mask and threshold of the merging are "
        "unknown and options here: never a row under the authors' name",
        counts_more="scores of the pairs that the causal layer leaves out, which the host makes",
    ),
)
@dataclass
class ShiftReading(Reducer):
    """Rank image tokens under a softly bidirectional mask, merge similar ones, refill the budget.

    Tokens that stay keep their position ids; a merged token stands where its anchor is.

    Attributes:
        k: image tokens left.
        layer: acts on the output of this layer, from 1.
        salience: a token's raw salience: mean score over the queries that may see it (``causal``)
            or over all image tokens (``all``); then brought to [0, 1] over the image.
        penalty: what is taken from the score of a later token of salience 0; one of salience 1
            loses nothing. inf = salience 1 alone is seen by earlier tokens.
        threshold: cosine of hidden states above which a kept token joins a more salient one; 1 =
            no merging.
    """

    k: int = 64
    layer: int = 2
    salience: Literal["causal", "all"] = "causal"
    penalty: float = 4.0
    threshold: float = 0.9
    tower = "language"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.LOGITS, Need.FEATURES})

    def check(self, batch: Batch) -> None:
        if self.k < 1:
            raise BadValueError(f"shift_reading: k={self.k}: give at least one image token.")
        if not 1 <= self.layer <= batch.depth:
            raise BadValueError(
                f"shift_reading: layer={self.layer}: the model has layers 1 to {batch.depth}."
            )
        if not self.penalty >= 0:
            raise BadValueError(f"shift_reading: penalty={self.penalty}: give a number >= 0.")
        if not -1 <= self.threshold <= 1:
            raise BadValueError(f"shift_reading: threshold={self.threshold} is a cosine: -1 to 1.")

    def begin(self, batch: Batch) -> Batch:
        return batch

    def watch(self, block: int, state: Batch) -> bool:
        return block == self.layer

    def rows(self, block: int, lengths: Tensor, state: Batch) -> Tensor:
        assert state.prompt is not None  # a host runs a language method on prompts alone
        start, count = state.prompt.start[:, None], state.prompt.count[:, None]
        place = torch.arange(int(count.max()), device=lengths.device)
        return torch.where(place < count, start + place, -1)

    def decide(self, view: View, state: Batch) -> Reduction | None:
        group = Reduction.identity(view.size).group
        weight = torch.ones_like(view.size)
        for row in range(len(group)):
            image = view.image[row].nonzero().flatten()
            if len(image) <= self.k:
                continue
            logits = view.logits[row, :, : len(image), image]
            salience = salience_of(logits, self.salience == "causal")
            attention = soft_attention(logits, salience, self.penalty)
            slot, share = keep_and_merge(
                attention, salience, view.features[row, image], self.k, self.threshold
            )
            reduce_run(group[row], image, slot)
            weight[row, image] = share
        return Reduction(group, weight)

    def macs(self, view: View, state: Batch) -> Tensor:
        """Scores of the pairs that the causal layer leaves out (attention being as wide as the
        model), and cosines of the kept tokens."""
        count, width = view.image.sum(1), view.features.shape[-1]
        own = count * (count - 1) // 2 * width + self.k**2 * width
        return torch.where(count > self.k, own, 0)

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1, batch.tokens if batch.prompt is None else int(batch.prompt.count.max())


def salience_of(logits: Tensor, causal: bool) -> Tensor:
    """``[n]`` in [0, 1] from scores ``[H, n, n]``, queries in rows; 1 everywhere if all are equal.

    Args:
        causal: whether a token is scored by itself and later ones alone.
    """
    mean = logits.float().mean(0)
    if causal:
        seen = torch.ones_like(mean).tril()
        raw = (mean * seen).sum(0) / seen.sum(0)
    else:
        raw = mean.mean(0)
    span = raw.amax() - raw.amin()
    return torch.where(span > 0, (raw - raw.amin()) / torch.where(span > 0, span, 1), 1)


def soft_attention(logits: Tensor, salience: Tensor, penalty: float) -> Tensor:
    """``[n]`` attention each image token gets from the others, mean over heads and queries.

    Args:
        logits: ``[H, n, n]``. salience: ``[n]`` in [0, 1].
        penalty: taken from the score of a later token, in proportion to ``1 - salience``.
    """
    # Of salience 1 nothing is taken, of no penalty either: inf * 0 is not a number.
    taken = torch.where(salience < 1, penalty * (1 - salience).clamp(min=1e-9), 0)
    later = torch.ones_like(logits[0], dtype=torch.bool).triu(1)
    scores = torch.where(later, logits.float() - taken, logits.float())
    return scores.softmax(-1).mean((0, 1))


def keep_and_merge(
    attention: Tensor, salience: Tensor, features: Tensor, keep: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """Where image tokens go: ``keep`` slots, in the order of their anchors (fewer where all tokens
    are merged or kept and none is left to fill a slot).

    The tokens with the most attention, by falling salience: one whose cosine with an anchor so far
    exceeds the threshold joins the nearest anchor, others become anchors. A slot that this frees
    goes to the most salient token that was not kept. A slot's weights are its tokens' salience.

    Args:
        attention, salience: ``[n]``. features: ``[n, D]``.

    Returns:
        ``[n]`` slot, -1 = dropped, and ``[n]`` weight.
    """
    order = attention.argsort(descending=True, stable=True)
    kept = order[:keep]
    kept = kept[salience[kept].argsort(descending=True, stable=True)]
    unit = F.normalize(features[kept].float(), dim=1)
    near = (unit @ unit.mT).tolist()
    anchors: list[int] = []
    anchor_of = []
    for i, row in enumerate(near):
        best = max(anchors, key=lambda j: row[j], default=None)
        if best is None or row[best] <= threshold:
            anchors.append(i)
            best = i
        anchor_of.append(best)
    discarded = order[keep:]
    refill = discarded[salience[discarded].argsort(descending=True, stable=True)]
    refill = refill[: keep - len(anchors)]

    head = torch.full_like(order, DROPPED)  # the token in whose slot each token is
    head[kept] = kept[torch.tensor(anchor_of, device=kept.device)]
    head[refill] = refill
    alone = head == torch.arange(len(head), device=head.device)
    slot = torch.where(head >= 0, (alone.long().cumsum(0) - 1)[head.clamp(min=0)], DROPPED)
    return slot, _shares(slot, salience)


def _shares(slot: Tensor, salience: Tensor) -> Tensor:
    """``[n]`` salience over the sum of its slot's; even shares where that is 0."""
    index, kept = slot.clamp(min=0), slot >= 0
    slots = int(slot.max()) + 1
    members, total = salience.new_zeros(slots), salience.new_zeros(slots)
    members.index_add_(0, slot[kept], torch.ones_like(salience[kept]))
    total.index_add_(0, slot[kept], salience[kept])
    share = torch.where(total[index] > 0, salience / total[index], 1 / members[index])
    return torch.where(members[index] > 1, share, 1)
