"""ToMe: Token Merging, Your ViT But Faster (Bolya et al., arXiv 2210.09461).

In every block, between attention and MLP, the r most similar pairs of tokens are merged into their
size-weighted mean; attention counts a merged token as many times as it holds patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from asap_eval.errors import BadValueError
from asap_eval.method import Batch, Card, Need, Reducer, View, register
from asap_eval.methods.parts.matching import match, match_macs, removable
from asap_eval.methods.parts.schedule import mixed
from asap_eval.tokens import Reduction


@register(
    "tome",
    Card(
        paper="Token Merging: Your ViT But Faster, arXiv 2210.09461",
        licence="CC-BY-NC 4.0",
        training="training-free",
        knob="r",
        knob_meaning="tokens removed per block, any real >= 0; 11.5 = 12 in the first half of the "
        "blocks, 11 in the others",
        fixed_count=True,
        deviations="register tokens are protected as class and distillation tokens are; "
        "similarities in fp32; a zero key has similarity 0 instead of NaN; a schedule longer than "
        "the model is refused",
    ),
)
@dataclass
class Tome(Reducer):
    """Merge the most similar tokens in every block; similarity is the cosine of head-mean keys.

    Order of tokens as in the authors' code: prefix, unmerged even positions, odd positions. Without
    any prefix token the unmerged ones are ordered by falling similarity. In each block at most half
    of the unprotected tokens are merged, so a large r saturates.

    Differences from the authors' code: register tokens are protected too; similarities are fp32
    whatever the model runs in; a zero key has similarity 0 with all (theirs gives NaN); a schedule
    longer than the model is an error (theirs ignores the rest); r may be fractional.

    Attributes:
        r: tokens removed in each block. A fraction is a mixed schedule: with L blocks and
            ``r = n + f`` the first ``round(f L)`` blocks remove ``n + 1``, the others ``n``. A list
            is a schedule, block by block, zeros after its end. A tuple is ``(r, inflection)``.
        inflection: linear schedule of mean r: block i of L removes the whole part of
            ``lo + (hi - lo) i / (L - 1)`` with ``lo = int(r (1 - inflection))`` and
            ``hi = 2 r - lo``; -1 = from 2r down to 0, 1 = from 0 up to 2r. ``None`` = constant.
        proportional: attention adds the logarithm of a token's size to its logits. The authors
            turn it off for models without supervised training (MAE).
    """

    r: float | list | tuple = 13.0
    inflection: float | None = None
    # A constant of the class elsewhere, an option here.
    proportional: bool = True  # type: ignore[misc]
    site = "between"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.KEYS})

    def schedule(self, depth: int) -> list[int]:
        """Tokens to remove in each block; a list longer than the model comes back as it is."""
        r, inflection = self._parts
        if isinstance(r, list):
            return r + [0] * (depth - len(r))
        if inflection is None:
            return mixed(r, depth)
        low = int(r * (1 - inflection))
        step = (2 * r - 2 * low) / max(depth - 1, 1)
        return [int(low + step * block) for block in range(depth)]

    @property
    def _parts(self) -> tuple[float | list, float | None]:
        """r and inflection, whichever way the second was given."""
        if not isinstance(self.r, tuple):
            return self.r, self.inflection
        if len(self.r) != 2 or self.inflection is not None:
            raise BadValueError(
                f"tome: r={self.r} with inflection={self.inflection}: a tuple is (r, inflection)."
            )
        return self.r

    def check(self, batch: Batch) -> None:
        r, inflection = self._parts
        if isinstance(r, list):
            if not all(type(step) is int and step >= 0 for step in r):
                raise BadValueError(f"tome: r={r}: a schedule is a list of whole numbers >= 0.")
            if len(r) > batch.depth:
                raise BadValueError(
                    f"tome: the schedule r={r} has {len(r)} entries; the model has {batch.depth} "
                    "blocks. Give at most one entry per block."
                )
            if inflection is not None:
                raise BadValueError("tome: r is already a schedule: leave inflection out.")
        elif not (_number(r) and 0 <= r < math.inf):
            raise BadValueError(f"tome: r={r!r}: give tokens per block, a number >= 0, or a list.")
        if inflection is not None and not (_number(inflection) and -1 <= inflection <= 1):
            raise BadValueError(f"tome: inflection={inflection!r}: give a number from -1 to 1.")

    def begin(self, batch: Batch) -> list[int]:
        return self.schedule(batch.depth)

    def watch(self, block: int, state: list[int]) -> bool:
        return state[block - 1] > 0

    def macs(self, view: View, state: list[int]) -> int:
        """The similarities; the weighted means are sums, which are counted nowhere."""
        tokens = view.size.shape[1]
        if not removable(tokens, view.prefix, state[view.block - 1]):
            return 0
        return match_macs(tokens, view.keys.shape[-1])

    def decide(self, view: View, state: list[int]) -> Reduction | None:
        r = removable(view.size.shape[1], view.prefix, state[view.block - 1])
        return Reduction(match(view.keys, r, view.prefix)) if r else None

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        if isinstance(self.r, list):
            raise BadValueError("tome: r is a schedule; a budget turns a number: leave r out.")
        return 0.0, batch.patches / 2


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
