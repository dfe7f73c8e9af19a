"""Methods that give every patch a score and keep the best share of them at one block.

Most of such a method is one `score` function. The budget can also be copied image by image from
the record of another method: a control at exactly its token counts and blocks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from asap_eval.errors import BadValueError, RecordError
from asap_eval.method import Batch, Reducer, View
from asap_eval.tokens import Reduction


@dataclass
class Plan:
    """State of one forward pass.

    Attributes:
        batch: the batch. block: ``[B]`` block at which each image acts, 0 = never.
        keep: ``[B]`` patches kept there. extra: what the method itself remembers.
    """

    batch: Batch
    block: Tensor
    keep: Tensor
    extra: Any = None


@dataclass
class Scorer(Reducer):
    """Keep the share ``k`` of patches with the highest score, on the output of one block.

    Attributes:
        k: share of the patches kept, 0 < k <= 1. layer: the block, from 1.
        rest: what happens to the others: one size-weighted mean token, or nothing.
        match: a record (or its per-sample file) whose block and token count each image copies;
            ``k`` and ``layer`` are then not used.
    """

    k: float = 0.7
    layer: int = 4
    rest: Literal["pool", "drop"] = "pool"
    match: str | None = None

    def score(self, view: View, state: Plan) -> Tensor:
        """``[b, P]`` of the watched images; higher is kept."""
        raise NotImplementedError

    def check(self, batch: Batch) -> None:
        if not 0 < self.k <= 1:
            raise BadValueError(f"{self.name}: k={self.k} is a share: give a value in (0, 1].")
        if not 1 <= self.layer <= batch.depth:
            raise BadValueError(
                f"{self.name}: layer={self.layer}, but the model has blocks 1 to {batch.depth}."
            )

    def begin(self, batch: Batch) -> Plan:
        if self.match is None:
            block = torch.full((batch.count,), self.layer)
            keep = torch.full((batch.count,), max(1, round(self.k * batch.patches)))
            return Plan(batch, block, keep)
        copied = matched(self.match)
        try:
            pairs = [copied[batch.id_of(i)] for i in range(batch.count)]
        except KeyError as error:
            raise RecordError(
                f"{self.name}: image {error} is not in {self.match}; match a record made on the "
                "same images."
            ) from error
        block, slots = torch.tensor(pairs).T
        return Plan(batch, block, slots - (1 if self.rest == "pool" else 0))

    def watch(self, block: int, state: Plan) -> bool | Tensor:
        return (state.block == block).nonzero().flatten()

    def decide(self, view: View, state: Plan) -> Reduction | None:
        prefix, patches = view.prefix, state.batch.patches
        acting = state.block[view.images.cpu()] == view.block
        keep = torch.where(acting, state.keep[view.images.cpu()], patches).to(view.size.device)
        order = self._scores(view, state).argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)
        kept = torch.cat(
            [torch.ones_like(view.size[:, :prefix], dtype=torch.bool), rank < keep[:, None]], 1
        )
        return Reduction.keep(kept, pool=~kept if self.rest == "pool" else None)

    def _scores(self, view: View, state: Plan) -> Tensor:
        """What `score` gives, one number for each patch.

        Raises:
            BadValueError: it gives something else.
        """
        scores, due = self.score(view, state), (len(view.size), state.batch.patches)
        if tuple(scores.shape) != due:
            raise BadValueError(
                f"{self.name}: score gives {list(scores.shape)} where {list(due)} is due: one "
                "number for each patch of the watched images, the prefix left out "
                "([:, view.prefix :])."
            )
        return scores

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        return 1 / batch.patches, 1.0


@lru_cache(maxsize=8)
def matched(path: str) -> dict[str, tuple[int, int]]:
    """Block (0 = never) and tokens kept, prefix excluded, of every image of a record.

    Raises:
        RecordError: the file is missing or is not a per-sample file.
    """
    file = Path(path)
    if file.suffix == ".json":
        file = file.with_suffix(".samples.jsonl")
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return {
            row["id"]: (int(row["fired"]), int(row["tokens"]))
            for row in rows
            if row.get("error") is None
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"match={path}: cannot read {file}: {error!r}.") from error
