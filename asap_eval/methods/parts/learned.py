"""Methods whose scores come from trained predictors, one for each place where patches are dropped.

At the i-th place the best share ``k^i`` of the patches goes on. Predictors live in a checkpoint;
random ones mean nothing, so such a method runs from a file only. What a predictor reads and how it
is built are the method's own; the same two functions serve inference and training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from asap_eval.checkpoint import check_there
from asap_eval.errors import BadValueError, WeightsError
from asap_eval.method import Batch, Reducer, View
from asap_eval.methods.parts.acting_blocks import locations
from asap_eval.methods.parts.predictors import Inputs, Predictor, load_predictors, origin
from asap_eval.tokens import DROPPED, Reduction


@dataclass
class Stages:
    """State of one forward pass, by acting place (block counted from 0).

    Attributes:
        keep: patches kept there. predictors: of each place.
        seen: what the method keeps of the blocks it watched, ``[b, P, n]`` each, newest last.
    """

    keep: dict[int, int]
    predictors: dict[int, Predictor]
    seen: list[Tensor] = field(default_factory=list)


@dataclass
class Learned(Reducer):
    """Base of the methods with predictors: override `inputs`, `untrained` and `restored`.

    Attributes:
        k: keep rate.
        blocks: blocks before which patches are dropped, counted from 0; None = at L/4, L/2 and
            3L/4: 3, 6, 9 of 12.
        checkpoint: safetensors or torch file with one predictor for each of them, under
            ``score_predictor.<i>.`` or ``predictor.<i>.``; other keys are ignored.
    """

    k: float = 0.7
    blocks: list | None = None
    checkpoint: str | None = None
    by_score: ClassVar[bool] = False
    """Whether kept patches stand in the order of falling score rather than in their own."""
    reads: ClassVar[str] = "features"
    """What the tensors of `inputs` hold, for errors."""

    def inputs(self, view: View, state: Stages) -> Inputs | None:
        """What the predictor of this block reads; ``None`` where no patch is dropped yet."""
        raise NotImplementedError

    def untrained(self, inputs: Inputs) -> Predictor:
        """A fresh predictor for such inputs."""
        raise NotImplementedError

    @staticmethod
    def restored(state: Mapping[str, Tensor]) -> Predictor:
        """The predictor of a state dict; its sizes follow from the shapes."""
        raise NotImplementedError

    def place(self, block: int) -> int:
        """The place (from 0) at which this block acts: before block b + 1 is after block b."""
        return block - 1 if self.site == "before" else block

    def places(self, depth: int) -> tuple[int, ...]:
        """The acting places, from 0."""
        return locations(self.name, self.blocks, depth)

    def look(self) -> None:
        if self.checkpoint is None:
            raise BadValueError(
                f"{self.name}: its predictors have to be trained, random ones mean nothing. Give "
                f"method.checkpoint=<file>; `asap-eval train method={self.name} model=<model> "
                "data=<folder> out=<file>` makes one. method=random is the control without "
                "predictors."
            )
        check_there(Path(self.checkpoint).expanduser(), "method.checkpoint")

    def check(self, batch: Batch) -> None:
        self.check_options(batch)
        self.look()
        assert self.checkpoint is not None
        places = self.places(batch.depth)
        found = len(load_predictors(self.checkpoint, self.name, self.restored))
        trained_for = json.loads(self.origin().get("blocks", "null"))
        if trained_for not in (None, list(places)):
            raise BadValueError(
                f"{self.name}: the predictors of {self.checkpoint} were trained for "
                f"method.blocks={trained_for}, these are blocks={list(places)}."
            )
        if found != len(places):
            raise BadValueError(
                f"{self.name}: {found} predictors in {self.checkpoint} for {len(places)} places, "
                f"blocks={list(places)}."
            )

    def check_options(self, batch: Batch) -> None:
        """What `check` refuses before it looks at a checkpoint."""
        if not 0 < self.k <= 1:
            raise BadValueError(f"{self.name}: k={self.k} is a keep rate: give a value in (0, 1].")
        places = self.places(batch.depth)
        if places and int(batch.patches * self.k ** len(places)) < 1:
            raise BadValueError(
                f"{self.name}: k={self.k} leaves none of {batch.patches} patches after "
                f"{len(places)} places."
            )

    def begin(self, batch: Batch) -> Stages:
        loaded = load_predictors(str(self.checkpoint), self.name, self.restored, batch.device)
        return self.stages(batch, dict(zip(self.places(batch.depth), loaded, strict=True)))

    def stages(self, batch: Batch, predictors: dict[int, Predictor]) -> Stages:
        """Fresh state of a pass with these predictors."""
        places = enumerate(self.places(batch.depth), 1)
        return Stages({at: int(batch.patches * self.k**n) for n, at in places}, predictors)

    def watch(self, block: int, state: Stages) -> bool:
        return self.k < 1 and self.place(block) in state.keep

    def macs(self, view: View, state: Stages) -> int:
        predictor = state.predictors.get(self.place(view.block))
        return 0 if predictor is None else predictor.macs * (view.size.shape[1] - view.prefix)

    def decide(self, view: View, state: Stages) -> Reduction | None:
        inputs, place = self.inputs(view, state), self.place(view.block)
        if inputs is None:
            return None
        predictor = state.predictors[place]
        given = tuple(tensor.shape[-1] for tensor in inputs[1:])
        if given != predictor.sizes:
            raise WeightsError(
                f"{self.name}: the predictors of {self.checkpoint} read {_said(predictor.sizes)} "
                f"{self.reads} of a patch, this model (with these options) has {_said(given)}. "
                "Give the checkpoint made for this model."
            )
        score = predictor(*inputs)[..., 0]
        kept = score.argsort(dim=1, descending=True, stable=True)[:, : state.keep[place]]
        if not self.by_score:
            kept = kept.sort(dim=1).values
        state.seen = [seen.take_along_dim(kept[..., None], 1) for seen in state.seen]
        group = torch.full_like(view.size, DROPPED, dtype=torch.long)
        group[:, : view.prefix] = torch.arange(view.prefix, device=group.device)
        slots = torch.arange(view.prefix, view.prefix + kept.shape[1], device=group.device)
        return Reduction(group.scatter(1, kept + view.prefix, slots.expand_as(kept)))

    def knob_range(self, batch: Batch) -> tuple[float, float]:
        places = max(1, len(self.places(batch.depth)))
        # A hair above the rate that leaves one patch: a power's rounding must not leave none.
        return batch.patches ** (-1 / places) + 1e-6, 1.0

    def origin(self) -> dict[str, Any]:
        return origin(self.checkpoint) if self.checkpoint else {}


def _said(sizes: tuple[int, ...]) -> str:
    return " + ".join(map(str, sizes))
